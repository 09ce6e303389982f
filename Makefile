# From a bare clone, with nothing but Python >= 3.10 and make:
#   make demo   make the sample videos, train a small DSTNet on them for some minutes, test it, show the result
#   make test   lint, types, tests
# The environment goes to .venv; others are chosen with `make VENV=... PYTHON=... demo`.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO := results/test_DSTNet_sample

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint types setup soak fuzz clean help

help:
	@sed -n '2,4s/^# //p' Makefile

setup: $(READY)

# BasicSR is installed without build isolation: pip would fetch a second PyTorch for building it. Its setup.py does not
# run on Python 3.13 without the file in .ci/basicsr.
$(READY): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install torch torchvision setuptools wheel numpy
	PYTHONPATH=$(CURDIR)/.ci/basicsr $(RUN) -m pip install --no-build-isolation basicsr==1.4.2
	$(RUN) -m pip install --no-build-isolation -e '.[test,dev]'
	@touch $@

demo: setup
	$(RUN) -m data_prep sample -o datasets/sample
	$(RUN) -m basicsr.train -opt options/train_DSTNet_sample.yml
	$(RUN) -m basicsr.test -opt options/test_DSTNet_sample.yml
	@echo
	@echo "Scores of every frame and clip: $(DEMO)"
	@$(RUN) -m dstnet_arch visualize compare -opt options/test_DSTNet_sample.yml

test: setup lint types
	$(RUN) -m pytest

lint: setup
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

types: setup
	$(RUN) -m mypy

# Long, and no part of `test`: kill work at random and compare what comes of it; feed damaged files to what reads them.
soak: setup
	$(RUN) tests/soak/kills.py --kills 50

fuzz: setup
	$(RUN) -m pip install -e '.[fuzz]' --no-build-isolation
	$(RUN) tests/fuzz/run.py --seconds 60

# What is built and cached. Environments, data, runs and results stay.
clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find dstnet_arch data_prep tests -name __pycache__ -type d -prune -exec rm -rf {} +
