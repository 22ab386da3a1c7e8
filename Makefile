# `make demo` finds landmarks in a human brain, `make demo-mouse` in a real micro-CT head; `make test` checks the
# project. All install into .venv/ first.

PYTHON ?= python3
VENV ?= .venv
TRTLM_DATA ?= ../shared/data

SCAN := $(TRTLM_DATA)/mouse-skull-ct/posed/images/129S1_SVLMJ_.nii.gz
BIN := $(VENV)/bin
# One pip command for everything: torch's range has to be known while ModelOpt, which takes any torch, is resolved.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.PHONY: help demo demo-mouse scan test test-integration lint docs schemas clean distclean

help:
	@echo "make demo       install, then find 32 landmarks in a human brain: preds.json, slicer/, pictures/"
	@echo "make demo-mouse the same with 45 landmarks in a real micro-CT head of TRTLM_DATA"
	@echo "make test       install with everything that tests need, then lint and run the tests"
	@echo "make test-integration  the page in Chromium, DICOM reports in dciodvfy, where they are installed"
	@echo "make lint       ruff, mypy, and the layers of the package (import-linter)"
	@echo "make docs       the documentation as a site: docs/_build/html/index.html"
	@echo "make schemas    write the JSON Schema of the results file anew, after a change of its records"
	@echo "make clean      remove caches, build folders and what the demo wrote"
	@echo "make distclean  the same, and $(VENV)/"
	@echo "Settings: PYTHON=$(PYTHON)  VENV=$(VENV)  TRTLM_DATA=$(TRTLM_DATA)"

demo: $(VENV)/.installed
	$(BIN)/trtlm infer "$$($(BIN)/python -m tasks.brain_afids.scan)" --model brain-afids --out preds.json \
	  --markups slicer --figures pictures

demo-mouse: scan $(VENV)/.installed
	$(BIN)/trtlm infer "$(SCAN)" --model mouse-skull --out preds.json --markups slicer --figures pictures

# Before anything is installed.
scan:
	@test -f "$(SCAN)" || { \
	  echo "make demo-mouse: no scan at $(SCAN)." >&2; \
	  echo "Name the folder that holds mouse-skull-ct/: make demo-mouse TRTLM_DATA=/path/to/data" >&2; \
	  exit 1; }

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# What needs programs that are no Python packages; tests without theirs are skipped.
test-integration: $(VENV)/.installed-integration
	$(BIN)/python -m pytest --override-ini addopts= -q -rs tests/integration

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

schemas: $(VENV)/.installed-test
	$(BIN)/python -c "from trt_landmarks.results.predictions import write_schema; write_schema()"

clean:
	rm -rf docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis preds.json slicer pictures
	find benchmarks calibration export tasks tests trt_landmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)"

# Editable: a change in the code needs no new installation, one in pyproject.toml makes one.
# The stamps are ordered, so that the small installation is not repeated after the large one.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing trt-landmarks[demo] into $(VENV)/ ..."
	$(PIP_INSTALL) --editable ".[demo]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "Installing trt-landmarks[test] into $(VENV)/: some minutes the first time ..."
	$(PIP_INSTALL) --editable ".[test]"
	@echo "Compiling PyCUDA for the tests of the GPU path: two minutes, once ..."
	$(BIN)/python -m tests.gpu.build
	@touch $(VENV)/.installed $@

$(VENV)/.installed-integration: $(VENV)/.installed-test
	$(PIP_INSTALL) --editable ".[integration]"
	@touch $(VENV)/.installed-test $@

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	@echo "Installing trt-landmarks[docs] into $(VENV)/ ..."
	$(PIP_INSTALL) --editable ".[docs]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv "$(VENV)"
