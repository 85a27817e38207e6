# Thin: every target calls cargo or evenkeel. `make` alone says what there is.

JOB ?= jobs/shapes.yaml
ARGS ?=
CARGO ?= cargo
EVENKEEL := target/release/evenkeel

# What needs no libtorch, and is built and tested on the host. The rest is tested inside the builder image.
HOST_CRATES := -p evenkeel -p evenkeel-wire -p evenkeel-agent -p evenkeel-nvml-stub
TORCH_CRATES := -p tch-distributed -p evenkeel-trainer

.DEFAULT_GOAL := help
.PHONY: help build train smoke images workbench workbench-down controller
.PHONY: test test-lint test-host test-torch test-docker test-training test-workbench check-long deny bench clean

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
	$(EVENKEEL) image build builder ultralytics

workbench: build ## Jupyter and SSH in the training image
	image=$$($(EVENKEEL) image build workbench) && EVENKEEL_WORKBENCH_IMAGE=$$image compose/workbench.sh up

workbench-down: ## The workbench, ended
	compose/workbench.sh down

controller: ## Without Rust, by Docker alone: make controller ARGS='train jobs/shapes.yaml'
	compose/controller.sh $(if $(ARGS),$(ARGS),--help)

test: test-lint test-host test-torch test-docker test-training test-workbench ## Everything that a machine without a GPU can check

test-lint: ## Format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets $(HOST_CRATES) -- -D warnings

test-host: ## The controller, the agent and the command line, without an engine
	$(CARGO) build --locked -p evenkeel-nvml-stub
	$(CARGO) test --locked $(HOST_CRATES) --lib --bins
	$(CARGO) test --locked -p evenkeel-agent --tests
	$(CARGO) test --locked --test cli --test data --test inventory --test job

# The sources are in the image, which is named by their content; so nothing is mounted and nothing is left.
test-torch: ## The crates on libtorch, inside the builder image
	image=$$($(CARGO) run --quiet --locked -- image build builder) && \
	docker run --rm --network none --shm-size 1g $$image sh -euc '\
	    cargo clippy --release --locked --offline --all-targets $(TORCH_CRATES) -- -D warnings; \
	    cargo test --release --locked --offline $(TORCH_CRATES)'

test-docker: ## Containers on a real engine, as this user and as another one
	$(CARGO) test --locked --no-run --test docker --test image
	image=$$($(CARGO) run --quiet --locked -- image build debian) && \
	export EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$$image && \
	$(CARGO) test --locked --test docker --test image && \
	built=$$($(CARGO) test --locked --no-run --test docker 2>&1) && \
	tests/as-other-user.sh "$$(printf '%s\n' "$$built" | sed -n 's/.*(\(target[^)]*\))$$/\1/p')" target/debug/evenkeel

test-training: ## Trainings of a few minutes in the image that people train in
	images=$$($(CARGO) run --quiet --locked -- image build debian ultralytics) && \
	EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$${images%%[[:space:]]*} \
	$(CARGO) test --locked --test training -- --test-threads 1 --nocapture

test-workbench: ## The workbench through its ports, and the compose files
	images=$$($(CARGO) run --quiet --locked -- image build debian workbench) && \
	EVENKEEL_TEST_ENGINE=required EVENKEEL_TEST_IMAGE=$${images%%[[:space:]]*} \
	$(CARGO) test --locked --test workbench -- --test-threads 1 --nocapture

check-long: ## What takes long, whole: make test runs samples of it
	EVENKEEL_TEST_LONG=1 $(MAKE) test-docker test-training test-workbench
	$(MAKE) bench

bench: build ## Overhead and logs against the docker command, as ratios of one run
	image=$$($(EVENKEEL) image build debian) && export EVENKEEL_TEST_IMAGE=$$image && \
	$(CARGO) bench --locked --bench launch && $(CARGO) bench --locked --bench logs

deny: ## Licences and sources of the dependencies
	command -v cargo-deny > /dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

clean: ## What was built here; images and runs stay
	$(CARGO) clean
