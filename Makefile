# `make train` and `make test` need python3 (3.11 or newer, with venv), make, git and gcc; they set up
# the rest in .venv. Where nvidia-smi reports a GPU, the CUDA extra that fits its driver is installed,
# elsewhere CUDA's compiler alone, for tests.

PYTHON ?= python3
BIN := .venv/bin
CUDA := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p')
EXTRAS := dev,examples,plot,$(if $(filter 12 13,$(CUDA)),cuda$(CUDA),test-cuda)
STAMP := .venv/stamp

.PHONY: train test sanitize lint types docs-check bench clean

train: $(STAMP)
	$(BIN)/python docs/examples/digits.py

# Two processes that each run the BLAS on one thread do not take each other's core.
test: $(STAMP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests

# The tests of the native backend, its C built with gcc's sanitizers: an access outside an array, an
# overflow, a misaligned load ends the process. The sanitizer must be loaded before Python, and with
# it libstdc++, whose exceptions it watches. Python gives some memory back never, and the compiler
# runs without all this. Tests that start compilers of their own or send signals are left out.
CHECKED := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1
SANITIZED := -k "not warning and not compiler and not interrupt"
sanitize: $(STAMP)
	@if gcc $(CHECKED) -x c -shared -o /dev/null /dev/null 2>/dev/null; then \
	    CC="env -u LD_PRELOAD gcc $(CHECKED)" \
	    LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so.6)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OPENBLAS_NUM_THREADS=1 \
	    $(BIN)/python -m pytest -q -n 2 --dist worksteal --capture=sys $(SANITIZED) \
	        tests/test_native.py tests/test_native_running.py; \
	else echo "sanitize: left out, as gcc with its sanitizers is not there"; fi

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
