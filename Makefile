# `make quickstart` and `make test` are all a new user needs. Everything lives in .venv; a torch that is already there is kept.
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(VENV)/bin/pip
PYTHON ?= python3
RUN    ?= runs/quickstart
LAB    ?= runs/lab
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: quickstart lab test check format install install-dev model clean help

help:
	@echo "make quickstart   environment, base model, then curate -> train -> evaluate -> report on this machine"
	@echo "make lab          the classic road from random weights on a tiny model, in ten minutes"
	@echo "make test         every test (installs the test tools)"
	@echo "make check        lint, format, types, import floors"
	@echo "make format       rewrite the code in the project's format"

quickstart: install model
	$(VENV)/bin/bethink run quickstart --output $(RUN) --fresh-sibling

lab: install
	$(VENV)/bin/bethink run lab --output $(LAB) --fresh-sibling

test: install-dev model
	$(PY) -m pytest -n auto --maxprocesses=8 --dist worksteal

check: install-dev
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/ruff format --check src tests benchmarks
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: install-dev
	$(VENV)/bin/ruff check --fix src tests benchmarks
	$(VENV)/bin/ruff format src tests benchmarks

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev
model: install
	$(VENV)/bin/bethink models pull smollm2-135m

# A torch that the machine already has (a GPU build, say) is seen from the environment and kept.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bethink needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $$($(PYTHON) -c 'import torch' 2>/dev/null && echo --system-site-packages) $(VENV)

# Torch first and apart: an unpinned torch would pull gigabytes of CUDA packages onto a machine that may have no GPU.
$(VENV)/constraints.txt: constraints.txt | $(VENV)/bin/python
	$(PY) -c 'import torch' 2>/dev/null || $(PIP) install --quiet torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	grep -v '^torch==' constraints.txt > $@.part
	$(PY) -c 'import importlib.metadata as m; print("torch==" + m.version("torch").split("+")[0])' >> $@.part
	mv $@.part $@

$(VENV)/.installed: pyproject.toml $(VENV)/constraints.txt
	$(PIP) install --quiet -c $(VENV)/constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
