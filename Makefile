# From a bare clone: `make train` and `make test`. Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# By file: its tests share what they compile. Each process may need 8 GB. The
# files with few tests are slow ones, which xdist's own order would start last.
PYTEST = $(RUN) -m pytest -n logical --maxprocesses=4 --dist=loadfile \
  --no-loadscope-reorder
PYTHON_CODE = siglip_jax configs tests benchmarks examples docs setup.py
CONFIG ?= configs/emoji.py
WORKDIR ?= runs/emoji

.PHONY: train lit test parity browser check lint format clean

train: $(VENV)/train
	$(RUN) -m siglip_jax.data.emoji --data_dir=data
	$(RUN) -m siglip_jax.main --config=$(CONFIG) --workdir=$(WORKDIR)

# A Japanese text tower for the image tower of `make train`, locked.
lit: $(VENV)/train
	$(RUN) examples/lit_emoji.py --tower=$(WORKDIR)

test: $(VENV)/test
	$(PYTEST)

# What some tests compare with, and are skipped without: PyTorch, transformers.
parity: $(VENV)/parity

# What the demo's test drives a browser with: Gradio, Playwright.
browser: $(VENV)/browser

# All that CI runs.
check: lint test

lint: $(VENV)/dev
	$(VENV)/bin/pyink --check $(PYTHON_CODE)
	$(VENV)/bin/ruff check $(PYTHON_CODE)
	$(VENV)/bin/pyright
	$(VENV)/bin/shellcheck -x tpu/*.sh .ci/run

format: $(VENV)/dev
	$(VENV)/bin/ruff check --fix $(PYTHON_CODE)
	$(VENV)/bin/pyink $(PYTHON_CODE)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/train: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[emoji]'
	touch $@

$(VENV)/test: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[emoji,test]'
	touch $@

$(VENV)/parity: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[parity]'
	touch $@

$(VENV)/browser: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[browser]'
	touch $@

$(VENV)/dev: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[emoji,test,dev]'
	touch $@

clean:
	rm -rf $(VENV) data runs
