# Two commands on a fresh machine with Python 3.11, make and git: `make demo` and `make test`.
# Both install what they need into .venv; nothing outside this folder is touched.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= out/demo
# A GPU that nvidia-smi lists gets the CUDA build of torch; everything else the CPU build.
FLAVOUR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
CONSTRAINTS := conf/constraints/$(FLAVOUR).txt
# torch is installed first and by version: a range lets pip take the newest, which is a CUDA build.
TORCH := $(shell sed -n 's/^torch==/torch==/p' $(CONSTRAINTS))
PYTEST := RAY_worker_niceness=0 $(BIN)/pytest

.PHONY: demo test test-slow test-gpu bench soak lint format clean

demo: $(VENV)/.demo
	$(BIN)/pairloom run conf/synergy.yaml output=$(OUTPUT) seeds.limit=32
	$(BIN)/pairloom look $(OUTPUT)

test: $(VENV)/.dev
	$(PYTEST)

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow --timeout 1800

test-gpu: $(VENV)/.dev
	$(PYTEST) -m gpu --timeout 1800

coverage: $(VENV)/.dev
	$(PYTEST) --cov --cov-report=term-missing --cov-fail-under=90

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e '.[look]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) out
