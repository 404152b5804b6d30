# The commands of the README, and the trials of docs/torture.md. All make a virtual environment first, if there is none.
VENV ?= .venv
PYTHON ?= python3
BIN = $(abspath $(VENV))/bin

.PHONY: demo test test-slow torture lint

demo: $(VENV)/installed
	$(BIN)/python examples/make_speech.py runs/speech --minutes 30
	$(BIN)/accelerate launch --num_processes 1 --num_cpu_threads_per_process $(shell getconf _NPROCESSORS_ONLN) \
		examples/pretrain.py examples/configs/demo.yaml

test: $(VENV)/installed lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

torture: $(VENV)/installed
	cd tests && $(BIN)/python -m torture

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@
