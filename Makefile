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

# What `make demo` takes its learning rates from, and the tables of docs/results; hours on two cores.
tune: $(VENV)/.vision
	$(BIN)/python benchmarks/evidence.py llama-tiny resnet-tiny

POLYNOMIAL := htmuon:method=polynomial
BENCHED := muon:method=newton_schulz htmuon htmuon:method=svd htmuon:method=streaming $(POLYNOMIAL),levels=5 $(POLYNOMIAL) \
	$(POLYNOMIAL),levels=8 $(POLYNOMIAL),precision=bfloat16 $(POLYNOMIAL),levels=8,precision=bfloat16

bench: $(VENV)/.train
	test -f runs/momentum.safetensors || $(BIN)/python benchmarks/record_momentum.py --out runs/momentum.safetensors
	$(BIN)/htmuon bench llama-60m --layers 2 --threads 1 --rounds 5 --momentum runs/momentum.safetensors \
		--json benchmarks/results/bench_llama-60m.json --candidates $(BENCHED)
	$(BIN)/python benchmarks/symmetric_product.py --json benchmarks/results/symmetric_product.json
	$(BIN)/python benchmarks/import_time.py --json benchmarks/results/import_time.json

clean:
	rm -rf $(VENV) runs

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("htmuon needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Give another: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train]'
	touch $@

$(VENV)/.vision: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,vision]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,vision,dev]'
	touch $@
