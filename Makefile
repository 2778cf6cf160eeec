# make figures   run the notebooks on the embedded lab, those that are not fresh; figures/ is written anew
# make check     format, lint, types and the quick tests: under two minutes on two cores, before every commit
# make test      the same, then the first notebook and the tutorial, at their smoke size, in kernels (nbval): under five minutes
# make test-slow two cases of each slow test, the cells of every notebook among them; with `make test` what a change must pass
# make test-all  every case of every test and every notebook in a kernel: before a release, and after changes that reach many families
# make test-gpu  the tests that need a CUDA device, alone
# make test-browser  the notebooks with explorers in JupyterLab and a headless Chromium (Debian: apt-get install chromium); NAMED=02 those
#                whose test has this in its name
# make lab       JupyterLab on the repository, opened at notebooks/00_start_here.ipynb
# make exercises the notebooks' exercises, to fill in and with solutions that are run, in build/exercises
# make docs      the documentation as a site, in build/docs; executes nothing
# make clean     remove the environment and whatever can be made again at no cost (results in data/runs and exercises filled in stay)
#
# PYTHON=python3.12 chooses the interpreter (3.11 or newer); PRESET=smoke or ONLY=01_compounding_error narrow `make figures`, ONLY `make exercises`;
# NOTEBOOKS=FOLDER names the executed notebooks that `make docs` shows (default data/runs/notebooks/lab).

PYTHON ?= python3
PRESET ?= lab
VENV   := .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.docs
BROWSER := $(VENV)/.browser

PYTEST := ANALYSIS_PROGRESS=0 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
	PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(CURDIR)/$(VENV)/pycache" $(RUN) -m pytest -n 2 --dist worksteal

KERNELS := folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; ANALYSIS_HOME="$$folder" ANALYSIS_WORKERS=1 \
	$(subst worksteal,loadscope,$(PYTEST)) --nbval-lax --nbval-current-env --nbval-cell-timeout 300

.PHONY: figures lint check test test-slow test-all test-gpu test-browser lab exercises docs clean
.DELETE_ON_ERROR:

figures: $(READY)
	$(RUN) -m analysis figures --preset $(PRESET) $(if $(ONLY),--only $(ONLY))

lint: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

check: lint
	$(PYTEST) -p no:nbval -m "not slow" tests

test: check
	$(KERNELS) notebooks/00_start_here.ipynb notebooks/tutorials

test-slow: $(READY)
	$(PYTEST) -p no:nbval --few -m "slow and not browser" tests

test-all: lint
	$(PYTEST) -p no:nbval tests
	$(KERNELS) notebooks --ignore=notebooks/exercises

test-gpu: $(READY)
	$(PYTEST) -p no:nbval -m gpu tests

test-browser: $(BROWSER)
	ANALYSIS_SCREENSHOTS=build/screenshots $(subst -n 2 --dist worksteal,,$(PYTEST)) -p no:nbval -m browser $(if $(NAMED),-k "$(NAMED)") tests/browser

lab: $(READY)
	JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks/jupyter" $(RUN) -m jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.news_url=None \
		--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

exercises: $(READY)
	$(RUN) -m analysis.suite.exercises $(if $(ONLY),--only $(ONLY))

docs: $(DOCS)
	$(RUN) docs/generate.py --check
	ANALYSIS_NOTEBOOKS="$(NOTEBOOKS)" $(RUN) -m sphinx -q -E -n -W --keep-going -c docs -b html . build/docs
	$(RUN) docs/links.py build/docs

clean:
	test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name exercises -exec rm -rf {} +
	rm -rf $(VENV) build/exercises/solutions *.egg-info .pytest_cache .mypy_cache .ruff_cache data/cache
	find analysis tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("make: $(PYTHON) is Python %d.%d, 3.11 or newer is needed; name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(BROWSER): $(READY)
	$(RUN) -m pip install --disable-pip-version-check --quiet --no-build-isolation -r requirements.lock -e ".[browser]"
	@touch $@

$(DOCS): $(READY)
	$(RUN) -m pip install --disable-pip-version-check --quiet --no-build-isolation -r requirements.lock -e ".[docs]"
	@touch $@
