# Two commands do all on a fresh machine: `make demo` and `make test`. Each installs what it needs
# into a virtual environment of its own, $(VENV); nothing outside this folder changes.

PYTHON ?= python3
# The mm stack: onedl (maintained fork) or openmmlab (official).
STACK  ?= onedl
VENV   ?= .venv
PYTEST_ARGS ?=

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed-$(STACK)

# For everything that pip installs, also in the environments it builds packages in.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)

.PHONY: help install demo demo-pose test lint types format docs zoo dist benchmark clean

help:
	@echo "make demo        train a small SegFormer and test it under every merging preset (5 minutes)"
	@echo "make demo-pose   the same for human pose, on rendered figures (5 minutes)"
	@echo "make test        run the tests (STACK=openmmlab VENV=.venv-openmmlab for the official stack)"
	@echo "make lint        check style, formatting and types (make types: these alone)"
	@echo "make format      mend style and formatting"
	@echo "make docs        build the documentation's site, every warning an error"
	@echo "make zoo         write the model zoo's metafiles and docs/zoo.md anew, from the configs"
	@echo "make dist        build sdist and wheel into dist/"
	@echo "make benchmark   time all presets beside the peer pipeline on this machine"
	@echo "make install     only make $(VENV)"
	@echo "make clean       remove what these commands made"

install: $(STAMP)

$(STAMP): setup.py constraints.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 14) \
	    else "error: Python 3.10 to 3.14 is needed, PYTHON=$(PYTHON) is %d.%d" % v)'
	@for other in $(VENV)/.installed-*; do test ! -e $$other || test $$other = $@ || { \
	    echo "error: $(VENV) holds the other mm stack; name a folder of its own: VENV=.venv-$(STACK)"; \
	    exit 1; }; done
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
	    || { echo "error: no virtual environment could be made (on Debian: apt install python3-venv)"; exit 1; }
	@echo "[1/3] torch (the largest download: some GB, minutes without a word)"
	@$(PIP) torch numpy setuptools wheel
	@echo "[2/3] mmseg_tome with the $(STACK) stack"
	@$(PIP) -e '.[$(STACK),dev]'
	@# opencv-python needs libGL, which servers lack; the headless build is the same otherwise.
	@$(BIN)/python -m pip uninstall --quiet --yes opencv-python
	@$(PIP) --no-deps --force-reinstall opencv-python-headless
	@echo "[3/3] mmpose"
	@tools/install_mmpose.sh $(BIN)/python
	@touch $@

demo: $(STAMP)
	$(BIN)/mmseg-tome demo segmentation

demo-pose: $(STAMP)
	$(BIN)/mmseg-tome demo pose

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict

zoo: $(STAMP)
	$(BIN)/python -m mmseg_tome.lab.zoo

dist: $(STAMP)
	$(BIN)/python -m build --no-isolation

benchmark: $(STAMP)
	$(BIN)/python tools/benchmark.py --models b0 b2 --size 1024x1024

clean:
	rm -rf .venv .venv-* build dist demo_output benchmark_output mmseg_tome.egg-info mmseg_tome/.mim
