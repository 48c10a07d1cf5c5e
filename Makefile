# make demo, make test, make check: each first makes .venv and installs requirements.txt into it, once.
PYTHON ?= python3
BIN = .venv/bin
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-slow check install
demo: install
	$(BIN)/python tools/compare.py configs/demo.yaml

test: install
	$(ONE_THREAD) $(BIN)/python -m pytest

test-slow: install
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy mtseg

install: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@
