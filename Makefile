# From a clone, with Python >= 3.10 and make:
#   make demo           make sample videos, train a small DSTNet for some minutes, test it, show the result
#   make test           lint, types and tests
#   make test-extended  slower checks: documentation, notebook, browser, kernels, more damaged files
#   make lint           ruff, import rules, spelling
#   make docs           the documentation site, in site/
# The environment is made in .venv. To choose another one: make VENV=... PYTHON=... demo

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO := results/test_DSTNet_sample

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-extended lint types docs soak fuzz clean

help:
	@sed -n '2,7s/^# //p' Makefile

setup: $(READY)

$(READY): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m dstnet_arch setup-basicsr
	$(RUN) -m pip install --no-build-isolation -e '.[test,dev,docs]'
	@touch $@

demo: setup
	$(RUN) -m data_prep sample -o datasets/sample
	@echo
	@echo "Training a small DSTNet: about five minutes on two idle CPU cores."
	$(RUN) -m basicsr.train -opt options/train_DSTNet_sample.yml
	$(RUN) -m basicsr.test -opt options/test_DSTNet_sample.yml
	@echo
	@echo "Scores of every frame and clip: $(DEMO)"
	@$(RUN) -m dstnet_arch visualize compare -opt options/test_DSTNet_sample.yml -o $(DEMO)/compare.png

# One thread for each process: the tests' tensors are small.
test: lint types
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m 'not extended' -n $(JOBS)

test-extended: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m extended -n $(JOBS)

lint: setup
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell

types: setup
	$(RUN) -m mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# Minutes to hours, and not part of the tests: kill runs at random and compare the results; read damaged files.
soak: setup
	$(RUN) tests/soak/kills.py --kills 50

fuzz: setup
	$(RUN) -m pip install -e '.[fuzz]' --no-build-isolation
	$(RUN) tests/fuzz/run.py --seconds 60

# Removes what is built and cached. Environments, data, runs and results stay.
clean:
	rm -rf build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find dstnet_arch data_prep tests -name __pycache__ -type d -prune -exec rm -rf {} +
