# Everything a user runs. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
QUICKSTART := runs/quickstart

# The environment's own kernelspec `python3` comes before one in the user's home.
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONNOUSERSITE := 1

.PHONY: help setup quickstart test test-all lab app check gpu-check evaluate bench bench-memory data clean

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## /  make \1\t/; s/%/NAME/' | expand -t 20

setup: $(STAMP) ## create .venv and install the pinned packages; a second run installs nothing

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 is needed, but '$(PYTHON)' is missing or another version." >&2; \
	    echo "Install it, or say where it is: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into .venv (once; some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
	    -c constraints.txt -e '.[dev,build,dask]'
	@touch $@

quickstart: setup ## erase a first concept: run notebooks/00_quickstart.ipynb
	@mkdir -p $(QUICKSTART)
	$(BIN)/python -m papermill notebooks/00_quickstart.ipynb $(QUICKSTART)/00_quickstart.ipynb \
	    --kernel python3 --start-timeout 180 --execution-timeout 900 --no-progress-bar
	@test -s $(QUICKSTART)/before_after.png || { \
	    echo "The notebook ran but wrote no $(QUICKSTART)/before_after.png" >&2; exit 1; }
	@echo "Executed notebook:  $(QUICKSTART)/00_quickstart.ipynb"
	@echo "Before and after:   $(QUICKSTART)/before_after.png"

test: setup ## unit tests and the quickstart in its smoke profile
	$(BIN)/python -m pytest -q -m "not slow"

test-all: setup ## every notebook in its smoke profile, and the explorers in Chromium
	$(BIN)/python -m pytest -q -m slow

lab: setup ## JupyterLab on this machine only; it prints its address with the token
	$(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root)

app: setup ## the erasure studio as a page of its own, on this machine only, behind a token
	$(BIN)/voila notebooks/A2_erasure_studio.ipynb --Voila.ip=127.0.0.1 --token

check: setup ## ruff, mypy, and that notebooks are committed without outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy erase_lib
	$(BIN)/nbstripout --verify --extra-keys metadata.papermill notebooks/*.ipynb

gpu-check: setup ## seconds and memory of an erasure at Stable Diffusion's size, on a CUDA GPU
	$(BIN)/python -m erase_lib.gpu_check

results-%: setup ## run the grid notebooks/params/NAME.yaml; its table goes to data/results
	$(BIN)/erase-sweep --grid notebooks/params/$*.yaml --out runs/results-$* --workers 2 \
	    --publish data/results

evaluate: setup ## the three suites, one erasure each: runs/evaluate; goes on where it was cut off
	$(BIN)/erase-sweep --grid notebooks/params/evaluate.yaml --out runs/evaluate --workers 2

bench: setup ## time every method, schedule and the K/V prediction; tables go to data/results
	$(BIN)/python -m benchmarks.speed --out data/results/speed.json
	$(BIN)/python -m benchmarks.kv --out data/results/kv.json

bench-memory: setup ## memory at Stable Diffusion's shapes: 20 GB, some 10 minutes; `full` needs more
	$(BIN)/python -m benchmarks.memory --methods xattn noxattn --out data/results/memory.json

data: setup ## build data/emoji again from the npm packages (about 160 MB, fetched once)
	@command -v npm >/dev/null || { echo "npm is needed to fetch the pictures: install Node.js" >&2; exit 1; }
	$(BIN)/python -m embedded.pictures
	$(BIN)/python -m embedded.words
	$(BIN)/python -m embedded.sets

clean: ## remove caches; .venv, runs/ and build/ stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
