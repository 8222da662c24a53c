# make figures    every figure, every verdict and the report, of elegans and elegans-languages: half an hour on two cores (the first run installs .venv)
# make test       the tests, and which of them took longest
# make test-browser  the pages in a real browser (Debian's package chromium), after `make figures`
# make site       documentation, results and pages as one site in build/site, which works from disk; a broken link is an error
# make check      linter, formatter and type checker
# make organism   grows the embedded model and its transcoders from scratch (SEED=n for another seed)
# make bench      the attribution engine beside circuit-tracer (a quarter of an hour)
# make clean      removes what was computed (data/runs); keeps the shipped models, the committed figures and .venv

# bash, so that a stage that fails is seen behind the pipe that tells how far it is
SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
SEED ?= 0
TORCH ?= $(shell grep '^torch==' requirements.lock)
BIN := .venv/bin
# Snakemake is the one program here that colours whatever NO_COLOR says (https://no-color.org).
PLAIN := $(if $(NO_COLOR),--nocolor)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
STAMP := .venv/.installed
SITE := build/site
SITE_ENV := build/site-env

# pip does not compile what it installs (--no-compile): modules are compiled when first imported, which spares a minute. A first
# experiment would wait for those that it imports, so `setup` ends with one.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup figures test test-browser test-browser-speed test-browser-pages site check organism bench clean

help:
	@sed -n 's/^# make/  make/p' Makefile

setup: $(STAMP)

# torch goes first and alone: it is the one package whose build a user may want to choose (see CONTRIBUTING.md); all other
# versions, transitive ones included, stand in the lock, so pip has nothing to resolve and nothing else can come in.
$(STAMP): requirements.lock
	@echo "Installing into .venv (once; about 2 GB, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	    || { echo "error: Python 3.11, 3.12 or 3.13 is needed; say which: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --constraint requirements.lock $(TORCH)
	@$(PIP) --no-deps --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	-@$(BIN)/biology trace "Fact: the capital of" --model elegans >/dev/null
	@touch $@

figures: $(STAMP)
	@$(BIN)/biology plan --cores $(CORES)
	@$(BIN)/snakemake figures/all reports/all --cores $(CORES) $(PLAIN) 2>&1 | $(BIN)/biology progress --cores $(CORES)
	@$(BIN)/biology summary

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore tests/browser --numprocesses auto --dist loadscope --slowest 20

test-browser: test-browser-speed test-browser-pages

test-browser-speed: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser -m "browser and at_rest"

test-browser-pages: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser -m "browser and not at_rest" --numprocesses auto --dist worksteal

# The site's packages are apart from ours: their versions of what both need differ.
$(SITE_ENV)/.installed: site/requirements.lock
	@$(PYTHON) -m venv $(SITE_ENV)
	@$(SITE_ENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --requirement site/requirements.lock
	@touch $@

site: $(STAMP) $(SITE_ENV)/.installed
	@$(BIN)/python site/assemble.py build/site-source
	@NO_MKDOCS_2_WARNING=1 $(SITE_ENV)/bin/mkdocs build --strict --quiet --config-file build/site-source/mkdocs.yml
	@echo "Site: open $(SITE)/index.html in a browser, or give the folder $(SITE) to any static host"

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/basedpyright --level error

organism: $(STAMP)
	@$(BIN)/biology organism --seed $(SEED)

bench: $(STAMP)
	@$(BIN)/python benchmarks/bench.py

clean:
	rm -rf data/runs .snakemake
