# `make demo` and `make test` need python3, make and a package index; all else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
REALDATA := $(wildcard ../shared/data)
ifneq ($(REALDATA),)
export CNNKIT_REALDATA ?= $(abspath $(REALDATA))
endif

.PHONY: demo test check format wheel clean

demo: .venv/.installed
	$(BIN)/cnnkit train digits --model lenet5_relu --epochs 40 --output runs/demo --overwrite

test: .venv/.installed
	$(BIN)/pytest -n auto --dist worksteal

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -p no:cacheprovider tests/test_import_direction.py

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: .venv/.installed
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
