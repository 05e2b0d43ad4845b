# `make train` and `make test` need python3 (3.11 or newer, with venv), make, git and gcc; they set up
# the rest in .venv. Where nvidia-smi reports a GPU, the CUDA extra that fits its driver is installed.

PYTHON ?= python3
comma := ,
BIN := .venv/bin
CUDA := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p')
EXTRAS := dev,examples,plot$(if $(filter 12,$(CUDA)),$(comma)cuda12)$(if $(filter 13,$(CUDA)),$(comma)cuda13)
STAMP := .venv/stamp

.PHONY: train test lint types docs-check bench clean

train: $(STAMP)
	$(BIN)/python docs/examples/digits.py

# Two processes that each run the BLAS on one thread do not take each other's core.
test: $(STAMP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/basedpyright --level error

docs-check: $(STAMP)
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_layering.py

bench: $(STAMP)
	$(BIN)/graphc bench

clean:
	rm -rf .venv out dist build

$(STAMP): pyproject.toml
	@echo "setting up .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[$(EXTRAS)]"
	@touch $@
