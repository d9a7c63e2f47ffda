# Needs Python 3.11 or later; with a C++ compiler the dense CRF is pydensecrf2, without one the library's own.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --constraint constraints.txt
OUT = demo
# Notebooks call the commands by name
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help env demo seeds test browser docs bench bench-scene regions gpu starter export check dist-check clean

help:  ## list what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{ printf "make %-12s%s\n", $$1, $$2 }'

env: $(VENV)/.stamp  ## the environment in .venv; instant when nothing it depends on has changed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, this is {v[0]}.{v[1]}" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp: settings.ini setup.py pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) 'cython>=3.1' setuptools
	@# The C++ that pydensecrf2 ships is too old for Python 3.13: the Cython of the environment writes it anew
	@$(INSTALL) --no-build-isolation pydensecrf2 &>$(VENV)/pydensecrf2.log || \
	  echo 'pydensecrf2 could not be built ($(VENV)/pydensecrf2.log says why): the CRF in torch takes its place.' >&2
	sed -n '/^browser_/d; s/^[a-z_]*requirements = //p' settings.ini | tr ' ' '\n' | grep -Ev '^(pydensecrf2|torchgeo)' | $(INSTALL) --requirement /dev/stdin
	$(INSTALL) --no-deps --editable .
	@touch $@

demo: env  ## the whole method on a small synthetic world, into the folder OUT=demo
	$(BIN)/landslide-demo '$(OUT)'

seeds: env  ## the demo on three worlds, into the folder OUT=demo, and bench/SEEDS.md: mean, spread
	$(BIN)/landslide-demo '$(OUT)' --repeats 3
	{ printf '# The demo over three seeds\n\nMade by `make seeds`, that is `landslide-demo OUT --repeats 3`: percent, mean and standard deviation over the seeds, each with a world and a training of its own.\n\n'; cat '$(OUT)/seeds.md'; } > bench/SEEDS.md

bench: env  ## what the speed is, against what people use today: bench/RESULTS.md
	$(BIN)/python bench/bench.py

test: env  ## every notebook and every test, but for those in a browser
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --timing
	@# They are make browser's, which installs what they need; pytest alone runs them too where that is there
	$(BIN)/pytest --ignore tests/test_browser.py

browser: env  ## the explorers in a real browser: installs JupyterLab and, where apt-get is and this is root, Chromium
	sed -n 's/^browser_requirements = //p' settings.ini | tr ' ' '\n' | $(INSTALL) --requirement /dev/stdin
	@PYTHONPATH=tests $(BIN)/python -c 'import sys, browser; sys.exit(not browser.chromium())' || \
	  if [[ $$(id -u) = 0 ]] && command -v apt-get >/dev/null; then \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; } >/dev/null || \
	      echo 'apt-get could not install Chromium: the tests in a browser are skipped.' >&2; \
	  else \
	    echo 'There is no Chromium, and only root with apt-get could install one here: the tests in a browser are skipped.' >&2; \
	  fi
	$(BIN)/pytest tests/test_browser.py -rs

docs: env  ## the documentation: pages made and checked in _proc, and the site in _docs where Quarto is installed
	$(BIN)/python tools/docs.py

bench-scene: env  ## memory and time of a scene as large as a Sentinel-2 tile: bench/SCENE.md
	$(BIN)/python bench/scene.py

regions: env  ## what adapting is worth, over regions and ways to adapt, into the folder OUT/regions and bench/REGIONS.md: hours; goes on where it was stopped
	$(BIN)/python bench/regions.py --out '$(OUT)/regions'

gpu: env  ## rates, memory and shares of the card's matrix rate at the paper's sizes: bench/GPU.md
	$(BIN)/python bench/gpu.py

starter: env  ## the model that the package ships, into landslide_nb/starter: an hour or so on two cores; goes on where it was stopped
	$(BIN)/python tools/starter.py --out '$(OUT)/starter'

export: env  ## modules from notebooks, notebooks cleaned, README.md from nbs/index.ipynb, the site's sidebar
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/docs.py --sidebar

check: export  ## a committed tree holds exactly what its notebooks give
	@changes=$$(git status --porcelain); \
	if [[ -n $$changes ]]; then \
	  git --no-pager diff; \
	  printf '%s\n' "$$changes" 'The tree differs from what its notebooks give, or holds work not yet committed.' >&2; \
	  exit 1; \
	fi

dist-check: env  ## sdist, a wheel from the sdist, and that wheel at work in an environment of its own
	$(BIN)/python tools/dist_check.py

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info _proc _docs .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
