# Every target makes the environment it needs: `make quickstart` and `make test` work in a fresh clone.

PYTHON ?= python3
VENV   ?= .venv
BODY   ?= timm/tf_efficientnet_lite0-FPN
OUTPUT ?= runs/quickstart/$(subst /,_,$(BODY))
SEARCH ?= runs/search_demo
JOBS   ?= 2

BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
BUILT  := $(VENV)/.built
OLDEST := $(VENV)-oldest

# One thread a process: the tests' tensors are small, and the processes share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# By stealing, the tests of a file mostly stay in one process, which builds their fixtures once.
SPREAD := -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help venv quickstart search-demo test test-slow test-all test-oldest fuzz bench bench-ops lint format clean

help:             ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo "  PYTHON=python3.12 chooses the Python of a new environment; VENV=folder says where it lies."

venv: $(BUILT)    ## make the environment in .venv, build the operators

$(READY): pyproject.toml setup.py scripts/bootstrap.py scripts/check_torch.py
	@$(PYTHON) scripts/bootstrap.py $(VENV)
	@touch $@

$(BUILT): $(READY) $(shell find csrc -type f)
	@echo "Building the operators."
	@$(BIN)/python setup.py --quiet build_ext --inplace >/dev/null
	@$(BIN)/python -m backbones.ops
	@touch $@

# Other bodies have no weights to start from here, so they train from scratch with a configuration made for that.
QUICKSTART_DATA := trees
ifeq ($(BODY),timm/tf_efficientnet_lite0-FPN)
QUICKSTART_CONFIG := configs/quickstart/trees.yaml
else ifeq ($(BODY),FBNet-mobilenet_v2-FPN)
QUICKSTART_CONFIG := configs/quickstart/mobilenet_v2.yaml
QUICKSTART_DATA := trees mobilenet-v2
else
QUICKSTART_CONFIG := configs/quickstart/scratch.yaml
endif

quickstart: $(BUILT)  ## train and evaluate a detector on real photographs [BODY=R-18-FPN]
	@for data in $(QUICKSTART_DATA); do $(BIN)/python tools/prepare_data.py $$data || exit; done
	@$(BIN)/python tools/train_net.py --config-file $(QUICKSTART_CONFIG) \
		--resume MODEL.BACKBONE.CONV_BODY $(BODY) OUTPUT_DIR $(OUTPUT)
	@echo "The report: $(OUTPUT)/report.html"

search-demo: $(BUILT)  ## search an architecture, and train a detector with it [SEARCH=folder]
	@scripts/search_demo.sh $(BIN)/python $(SEARCH)

test: $(BUILT)    ## run the fast tests
	@$(PYTEST) $(SPREAD)

test-slow: $(BUILT)  ## run the slow tests
	@$(PYTEST) $(SPREAD) -m slow

test-all: $(BUILT)   ## run every test
	@$(PYTEST) $(SPREAD) -m "slow or not slow"

# Files with any fault, thousands of them. The log and its seed stay: make fuzz FUZZ_SEED=... repeats a run.
FUZZ_EXAMPLES ?= 2000
FUZZ_SEED     ?= $(shell date +%s)
fuzz: $(BUILT)  ## fuzz COCO files, checkpoints, weight files and YAML; the log goes to runs/fuzz
	@mkdir -p runs/fuzz
	@CONVBODY_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PYTEST) -n $(JOBS) --dist loadfile -m slow tests/fuzz \
		--hypothesis-seed=$(FUZZ_SEED) --hypothesis-show-statistics > runs/fuzz/$(FUZZ_SEED).log 2>&1; \
		status=$$?; tail -n 3 runs/fuzz/$(FUZZ_SEED).log; echo "seed $(FUZZ_SEED): runs/fuzz/$(FUZZ_SEED).log"; exit $$status

# The environment gets the oldest torch and no build of its own: it loads the file built for the newest.
test-oldest: $(BUILT)  ## run the fast tests under the oldest torch, with the same build (downloads it)
	@$(PYTHON) -m venv $(OLDEST)
	@CONVBODY_NO_EXTENSION=1 $(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[dev]' 'torch==2.11.*' 'torchvision==0.26.*'
	@CONVBODY_OLDEST_PYTHON=$(OLDEST)/bin/python $(PYTEST) tests/backbones/ops/test_library.py
	@OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(SPREAD)

# Threads that wait let other programs run, of all implementations alike.
bench: $(BUILT)  ## run all benchmarks, beside torchvision, timm and pycocotools
	@OMP_WAIT_POLICY=passive $(BIN)/python benchmarks/run.py all

bench-ops: $(BUILT)  ## time the operators on the CPU, into benchmarks/results
	@OMP_WAIT_POLICY=passive $(BIN)/python benchmarks/ops.py

lint: $(READY)    ## check style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(READY)  ## rewrite the sources in the house style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:            ## remove what was built or cached (runs, data sets and .venv stay)
	rm -rf $(BUILT) backbones/ops/*.so backbones/ops/*.not_built.txt build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
