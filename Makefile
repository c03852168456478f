# `make demo` trains and compares; `make check` takes minutes, for each change; `make test` runs every check.
# Each makes the virtual environment that it needs, with the versions that CONSTRAINTS pins.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
INSTALL = $(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable
SOURCES := htmuon tests benchmarks $(wildcard examples)

.PHONY: install demo lint check test docs tune bench dist clean

install: $(VENV)/.train

DEMO := adamw:two_rates=true muon:method=newton_schulz htmuon muon:method=newton_schulz,lr_scale=kinds

demo: $(VENV)/.train
	$(BIN)/htmuon compare llama-tiny --eval-interval 20 --optimizers $(DEMO) --out runs/demo

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/pytest -n auto -m "not slow"

test: $(VENV)/.dev
	$(MAKE) -j2 lint docs
	$(BIN)/pytest -n auto --dist worksteal

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# What `make demo` takes its learning rates from, and the tables of docs/results; hours on two cores.
tune: $(VENV)/.vision
	$(BIN)/python benchmarks/evidence.py llama-tiny resnet-tiny

POLYNOMIAL := htmuon:method=polynomial
BENCHED := muon:method=newton_schulz htmuon htmuon:method=quintic,steps=7 htmuon:method=eigh htmuon:method=svd htmuon:method=streaming $(POLYNOMIAL),levels=5 $(POLYNOMIAL) \
	$(POLYNOMIAL),levels=8 $(POLYNOMIAL),precision=bfloat16 $(POLYNOMIAL),levels=8,precision=bfloat16

bench: $(VENV)/.train
	test -f runs/momentum.safetensors || $(BIN)/python benchmarks/record_momentum.py --out runs/momentum.safetensors
	$(BIN)/htmuon bench llama-60m --layers 2 --threads 1 --rounds 5 --momentum runs/momentum.safetensors \
		--json benchmarks/results/bench_llama-60m.json --candidates $(BENCHED)
	$(BIN)/python benchmarks/symmetric_product.py --json benchmarks/results/symmetric_product.json
	$(BIN)/python benchmarks/import_time.py --json benchmarks/results/import_time.json

# The wheel and the source distribution of a release, in dist/.
dist: $(VENV)/.release
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) runs site build dist

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("htmuon needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Give another: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/pip pyproject.toml $(CONSTRAINTS)
	$(INSTALL) '.[train]'
	touch $@

$(VENV)/.vision: $(VENV)/bin/pip pyproject.toml $(CONSTRAINTS)
	$(INSTALL) '.[train,vision]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml $(CONSTRAINTS)
	$(INSTALL) '.[train,vision,dev]'
	touch $@

$(VENV)/.release: $(VENV)/bin/pip $(CONSTRAINTS)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) build twine
	touch $@
