# From a bare clone: `make train` and `make test`. Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
CONFIG ?= configs/emoji.py
WORKDIR ?= runs/emoji

.PHONY: train test check format clean

train: $(VENV)/train
	$(RUN) -m siglip_jax.data.emoji --data_dir=data
	$(RUN) -m siglip_jax.main --config=$(CONFIG) --workdir=$(WORKDIR)

test: $(VENV)/test
	$(RUN) -m pytest

check: $(VENV)/dev
	$(VENV)/bin/pyink --check siglip_jax configs tests setup.py
	$(VENV)/bin/ruff check siglip_jax configs tests setup.py
	$(VENV)/bin/pyright
	$(RUN) -m pytest

format: $(VENV)/dev
	$(VENV)/bin/ruff check --fix siglip_jax configs tests setup.py
	$(VENV)/bin/pyink siglip_jax configs tests setup.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/train: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[emoji]'
	touch $@

$(VENV)/test: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[emoji,test]'
	touch $@

$(VENV)/dev: setup.py | $(VENV)/bin/python
	$(RUN) -m pip install -q -e '.[emoji,test,dev]'
	touch $@

clean:
	rm -rf $(VENV) data runs
