# Two commands: `make demo` trains and compares, `make test` runs every check that CI runs.
# Both make their own virtual environment from the pinned versions in constraints.txt.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := htmuon tests benchmarks

.PHONY: demo test tune bench clean

demo: $(VENV)/.train
	$(BIN)/htmuon compare llama-tiny --out runs/demo

test: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto

# What `make demo` takes its learning rates from; about forty minutes on two cores.
tune: $(VENV)/.train
	$(BIN)/htmuon compare llama-tiny --optimizers adamw muon:method=newton_schulz htmuon htmuon:normalization=rms \
		--seeds 0 1 2 --grid.points 3 --learning-rates tune --save-tuned htmuon/recipes/tuned.json --out runs/tuning

bench: $(VENV)/.train
	$(BIN)/python benchmarks/optimizer_step.py --json benchmarks/results/optimizer_step.json
	$(BIN)/python benchmarks/import_time.py --json benchmarks/results/import_time.json

clean:
	rm -rf $(VENV) runs

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("htmuon needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Give another: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@
