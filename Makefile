# The project's commands. `make demo` and `make test` set up what they need on a fresh machine.
# `make demo` is on SQLite; URL=redis://localhost:6379/0 or the like tries another store.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
URL ?=
DATA ?=

.PHONY: demo test test-long bench docs check format servers clean

# The environment, made anew when pyproject.toml changes.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all,conformance]" --group dev
	touch $@

servers:
	tests/servers/install

demo: $(VENV)/ready
	$(BIN)/python -m tests.demo $(if $(URL),--url "$(URL)") $(if $(DATA),--data "$(DATA)")

test: $(VENV)/ready servers
	$(BIN)/python -m tests.run --contract-table docs/contract-table.md -m "not long" --durations=15

test-long: $(VENV)/ready servers
	$(BIN)/python -m tests.run -m long

bench: $(VENV)/ready servers
	$(BIN)/python -m tests.benchmarks

$(VENV)/ready-docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

docs: $(VENV)/ready-docs
	$(BIN)/python -W error -m mkdocs build --strict

check: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV)
