# Thin: every target calls cargo or evenkeel. `make` alone says what there is.

JOB ?= jobs/shapes.yaml
ARGS ?=
CARGO ?= cargo
EVENKEEL := target/release/evenkeel

# What needs no libtorch, and is built and tested on the host. The rest is tested inside the builder image.
HOST_CRATES := -p evenkeel -p evenkeel-wire -p evenkeel-agent -p evenkeel-nvml-stub
TORCH_CRATES := -p tch-distributed -p evenkeel-allocator -p evenkeel-yolo -p evenkeel-trainer

.DEFAULT_GOAL := help
.PHONY: help build train smoke images workbench workbench-down controller
.PHONY: test test-lint test-host test-torch test-torch-plain test-ddp-python test-official test-docker test-training test-workbench
.PHONY: test-gpu check-memory check-long check-trackers check-report check-learning deny bench bench-ddp bench-native bench-plan bench-fit bench-runs bench-unlike clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## The controller, target/release/evenkeel
	$(CARGO) build --release --locked

# The shapes are drawn, not fetched; a set that is there already is left as it is.
data/shapes/data.yaml: | build
	$(EVENKEEL) dataset shapes data/shapes

train: build data/shapes/data.yaml ## Train: make train JOB=jobs/shapes.yaml ARGS='epochs=20 device=cpu:2'
	$(EVENKEEL) train $(JOB) $(ARGS)

smoke: build data/shapes/data.yaml ## A quick look: one epoch on a few images
	$(EVENKEEL) train $(JOB) --smoke $(ARGS)

images: build ## All images that training needs
	$(EVENKEEL) image build builder worker ultralytics

workbench: build ## Jupyter and SSH in the training image
	image=$$($(EVENKEEL) image build workbench) && EVENKEEL_WORKBENCH_IMAGE=$$image compose/workbench.sh up

workbench-down: ## The workbench, ended
	compose/workbench.sh down

controller: ## Without Rust, by Docker alone: make controller ARGS='train jobs/shapes.yaml'
	compose/controller.sh $(if $(ARGS),$(ARGS),--help)

test: test-lint test-host test-torch test-ddp-python test-official test-docker test-training test-workbench ## Everything that a machine without a GPU can check

test-lint: ## Format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets $(HOST_CRATES) -- -D warnings

test-host: ## The controller, the agent and the command line, without an engine
	$(CARGO) build --locked -p evenkeel-nvml-stub
	$(CARGO) test --locked $(HOST_CRATES) --lib --bins
	$(CARGO) test --locked -p evenkeel-agent --tests
	$(CARGO) test --locked --test cli --test data --test failure --test inventory --test job --test plan

# The sources are in the image, which is named by their content; so nothing is mounted and nothing is left.
# With the features of the image's own program, whose C++ is compiled already. NCCL links without a GPU, and says at run time that
# there is none. `make check-long` does the same without the feature.
test-torch: ## The crates on libtorch, inside the builder image
	image=$$($(CARGO) run --quiet --locked -- image build builder) && \
	docker run --rm --network none --shm-size 1g --env EVENKEEL_TEST_LONG $$image sh -euc '\
	    cargo clippy --release --locked --offline --all-targets $(TORCH_CRATES) --features nccl -- -D warnings; \
	    cargo test --release --locked --offline $(TORCH_CRATES) --features nccl; \
	    RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --offline --no-deps -p tch-distributed --features nccl'

test-torch-plain: ## The same without NCCL
	image=$$($(CARGO) run --quiet --locked -- image build builder) && \
	docker run --rm --network none --shm-size 1g --env EVENKEEL_TEST_LONG $$image sh -euc '\
	    cargo clippy --release --locked --offline --all-targets $(TORCH_CRATES) -- -D warnings; \
	    cargo test --release --locked --offline $(TORCH_CRATES)'

# Our C++ is compiled with AddressSanitizer, which watches every allocation of the process, also those of libtorch and of Rust; what
# libtorch itself never frees is in the suppressions. Left out are tests whose limits of time are too short for it. ptrace is how leaks are looked for at a process's end.
check-memory: ## Errors of memory and leaks in tch-distributed's tests
	image=$$($(CARGO) run --quiet --locked -- image build builder) && \
	docker run --rm --network none --shm-size 1g --cap-add SYS_PTRACE $$image sh -euc '\
	    export TCH_DISTRIBUTED_SANITIZE=address \
	        CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=/build/crates/tch-distributed/tests/sanitized; \
	    cargo test --release --locked --offline -p tch-distributed --lib --test collectives --test stores --test failures \
	        --no-fail-fast -- --test-threads 1 --skip a_rank_that_never_comes; \
	    cargo test --release --locked --offline -p tch-distributed --test death -- --test-threads 1 \
	        a_rank_that_aborts a_group_outlives'

test-gpu: build ## NCCL on your own GPUs: preflight and every collective; writes target/gpu-report.txt
	@tests/gpu.sh

# Images are printed in the order they are asked for.
BESIDE_PYTHON := images=$$($(CARGO) run --quiet --locked -- image build builder ultralytics) && tests/beside-python.sh $$images

test-ddp-python: ## Our DDP against Python's, and together with it, in one container
	$(BESIDE_PYTHON) crates/tch-distributed beside_python check.py

test-official: ## Our network, loss and metric against the official package's
	$(BESIDE_PYTHON) crates/yolo beside_official official.py

test-docker: ## Containers on a real engine, as this user and as another one
	$(CARGO) test --locked --no-run --test docker --test image
	image=$$($(CARGO) run --quiet --locked -- image build debian) && \
	export EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$$image && \
	$(CARGO) test --locked --test docker --test image && \
	built=$$($(CARGO) test --locked --no-run --test docker 2>&1) && \
	tests/as-other-user.sh "$$(printf '%s\n' "$$built" | sed -n 's/.*(\(target[^)]*\))$$/\1/p')" target/debug/evenkeel

test-training: ## Trainings of a few minutes in the image that people train in
	images=$$($(CARGO) run --quiet --locked -- image build debian worker ultralytics) && \
	EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$${images%%[[:space:]]*} \
	$(CARGO) test --locked --test training -- --test-threads 1 --nocapture

test-workbench: ## The workbench through its ports, and the compose files
	images=$$($(CARGO) run --quiet --locked -- image build debian workbench) && \
	EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$${images%%[[:space:]]*} \
	$(CARGO) test --locked --test workbench -- --test-threads 1 --nocapture

check-long: ## What takes long, whole: make test runs samples of it
	EVENKEEL_TEST_LONG=1 $(CARGO) test --release --locked --test plan
	EVENKEEL_TEST_LONG=1 $(MAKE) test-torch-plain check-memory test-docker test-training test-workbench
	$(CARGO) test --locked --test image -- --ignored --nocapture
	$(MAKE) check-trackers check-report
	$(MAKE) bench bench-ddp bench-native bench-plan bench-fit bench-runs bench-unlike check-learning deny

check-trackers: build ## What TensorBoard and MLflow themselves read of a run, with a server that is away for a minute; needs Python 3
	$(EVENKEEL) image build worker > /dev/null
	tests/trackers.sh $(EVENKEEL)

check-report: ## Reports in a real browser, in a container without a network; pictures of them in target/report
	$(CARGO) build --locked
	tests/report.sh target/debug/evenkeel $(RUN)

check-learning: ## Whether the native trainer learns as well as the official one: two sets, three seeds each, half an hour
	OUTPUT=$(CURDIR)/target/bench DOCKER_ARGS="--env EVENKEEL_LEARN_EPOCHS --env EVENKEEL_LEARN_IMAGES" && \
	export OUTPUT DOCKER_ARGS && $(BESIDE_PYTHON) crates/yolo bare learning.py $(or $(SEEDS),3)

bench: build ## Overhead and logs against the docker command, as ratios of one run
	image=$$($(EVENKEEL) image build debian) && export EVENKEEL_TEST_IMAGE=$$image && \
	$(CARGO) bench --locked --bench launch && $(CARGO) bench --locked --bench logs

bench-ddp: ## Our DDP against Python's: steps a second, hidden communication; DEVICE=cuda on two GPUs
	OUTPUT=$(CURDIR)/target/bench DOCKER_ARGS="--env EVENKEEL_BENCH_PAIRS --env EVENKEEL_BENCH_STEPS $(if $(filter cuda,$(DEVICE)),--gpus all)" && \
	export OUTPUT DOCKER_ARGS && $(BESIDE_PYTHON) crates/tch-distributed bench_ddp bench.py $(or $(DEVICE),cpu)

bench-native: ## The native trainer against the official one: images a second, time to the first step; DEVICE=cuda on a GPU
	OUTPUT=$(CURDIR)/target/bench DOCKER_ARGS="--env EVENKEEL_BENCH_PAIRS $(if $(filter cuda,$(DEVICE)),--gpus all)" && \
	export OUTPUT DOCKER_ARGS && $(BESIDE_PYTHON) crates/yolo bare bench.py $(or $(DEVICE),cpu)

bench-fit: ## What autobatch predicts against what trains, cell by cell: make bench-fit CELLS='n-96 s-160'
	images=$$($(CARGO) run --quiet --locked -- image build debian worker ultralytics) && \
	EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$${images%%[[:space:]]*} \
	$(CARGO) bench --locked --bench fit -- $(CELLS)

bench-unlike: ## Two unlike devices in one training against what each does alone
	images=$$($(CARGO) run --quiet --locked -- image build debian worker) && \
	EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$${images%%[[:space:]]*} \
	$(CARGO) bench --locked --bench unlike

bench-plan: ## The planner beside brute force, on 1,000 devices, and on every random case
	$(CARGO) bench --locked --bench plan

bench-runs: ## How long ps, runs, show and logs take among 10,000 finished runs
	image=$$($(CARGO) run --quiet --locked -- image build debian) && \
	EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$$image $(CARGO) bench --locked --bench runs

deny: ## Licences and sources of the dependencies
	command -v cargo-deny > /dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

clean: ## What was built here; images and runs stay
	$(CARGO) clean
