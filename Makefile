# Thin: every target calls cargo or evenkeel. `make` alone says what there is.

JOB ?= jobs/shapes.yaml
ARGS ?=
CARGO ?= cargo
EVENKEEL := target/release/evenkeel

.DEFAULT_GOAL := help
.PHONY: help build train smoke images test lint test-host test-torch test-docker check-long deny bench clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## The controller
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

test: lint test-host test-torch test-docker ## Everything that a machine without a GPU can check

lint: ## Format and lints of what needs no libtorch
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -p evenkeel -p evenkeel-wire -p evenkeel-agent -p evenkeel-nvml-stub -- -D warnings

test-host: ## The controller, the agent and the command line, without an engine
	$(CARGO) test --locked -p evenkeel -p evenkeel-wire -p evenkeel-agent --lib --bins --test cli --test data --test inventory --test agent
