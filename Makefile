# The commands of the README, and the trials of docs/torture.md. All make a virtual environment first, if there is none.
VENV ?= .venv
PYTHON ?= python3
BIN = $(abspath $(VENV))/bin

.PHONY: demo test test-slow smoke torture lint

demo: $(VENV)/installed
	$(BIN)/hf-ssl-speech demo

test: $(VENV)/installed lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

# Another interpreter, in minutes: make smoke VENV=/tmp/venv313 PYTHON=python3.13
smoke: $(VENV)/installed
	$(BIN)/python -m pytest tests/test_encoder.py tests/test_exchange.py tests/test_commands.py tests/test_launch.py

torture: $(VENV)/installed
	cd tests && $(BIN)/python -m torture

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@
