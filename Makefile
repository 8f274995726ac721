# Gradients in Depth. `make lab` to learn; `make help` lists the rest.
# On Windows, and with conda, see README.md.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
# Extra arguments: make lab PIP_ARGS="--index-url ...", make lab LAB_ARGS=--no-browser.
PIP_ARGS ?=
LAB_ARGS ?=
# BEGIN STAFF: `make release` leaves out of the students' archive what stands up to the END.
# make test PYTEST_ARGS="-k theory", make notebooks NAMES="02_sigmoid_saturation --force".
PYTEST_ARGS ?=
NAMES ?=
# make grade SUBMITTED=path/to/submitted GRADE_ARGS="--jobs 4 --feedback"
SUBMITTED ?= submitted
GRADE_ARGS ?=
# make release RELEASE_ARGS="--out course.zip"
RELEASE_ARGS ?=
# make oldest TORCH=torch==2.13.0, where the oldest (or newest) PyTorch cannot be had.
TORCH ?=
# END STAFF

# Written when the environment is complete; older than a file that it was made from, it is brought up to date.
INSTALLED := $(VENV)/installed
TRUSTED   := $(VENV)/trusted

# Not shown in JupyterLab: a question about news, which it would get from the network.
HIDDEN := @jupyterlab/apputils-extension:announcements
PIP     = $(RUN) -m pip install --disable-pip-version-check $(PIP_ARGS)
HIDE    = $(RUN) -m jupyter labextension disable --level=sys_prefix

# BEGIN STAFF
# What tests, builds and grades comes into the same environment, with the first command that needs it.
COMPLETE := $(VENV)/installed-dev

# The menu that nbgrader gives JupyterLab is for staff (make formgrader), and not shown either.
HIDDEN_MENU := @jupyter/nbgrader

# Its architectures are diagnosed by the tests. Not in requirements-dev.txt, because its own requirements bring
# torchvision, and CUDA with it; neither is needed, and where timm is missing those tests are skipped.
TIMM := timm==1.0.31

.PHONY: dev style test check newest oldest notebooks exercises release grade formgrader
# END STAFF

.PHONY: help lab clean environment

help: ## Show this list
	@sed -n 's/^\([a-z]*\): .*## /make \1@/p' Makefile | awk -F@ '{ printf "%-16s %s\n", $$1, $$2 }'

lab: environment ## Open JupyterLab on the first lesson (installs what it needs the first time)
	@$(MAKE) --silent $(TRUSTED)
	$(RUN) -m jupyter lab --ServerApp.root_dir=. $(LAB_ARGS) notebooks/00_start_here.ipynb

# BEGIN STAFF
# Not reordered: few tests in a file does not mean short ones, and the lessons, which come first, are the longest.
test: dev ## Run the whole suite: units, every notebook, every explorer in a browser
	$(RUN) -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

QUICK := -m pytest -n 2 --dist loadscope -m "not slow and not browser" $(PYTEST_ARGS) tests

check: style ## Run the quick part: style, types, units, stored notebooks (no execution, no browser)
	$(RUN) $(QUICK)

style: dev ## Check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

newest: ## Run the quick tests with the newest releases that pyproject.toml admits
oldest: ## Run the quick tests with the oldest releases that pyproject.toml admits
newest oldest:
	$(PYTHON) -m venv --clear $(VENV)-$@
	$(PYTHON) -m tools.ranges $@ $(TORCH) >$(VENV)-$@/ranges.txt
	$(VENV)-$@/bin/python -m pip install $(PIP_ARGS) --requirement $(VENV)-$@/ranges.txt
	$(VENV)-$@/bin/python -m pip install $(PIP_ARGS) --no-deps --editable .
	$(VENV)-$@/bin/python $(QUICK)

notebooks: dev ## Build the notebooks whose script, or whose part of the package, has changed
	$(RUN) -m tools.lessons $(NAMES)

exercises: dev ## Build the solutions that have changed, and let nbgrader make the exercises from them
	$(RUN) -m tools.exercises $(NAMES)

release: dev ## Make the archive for students, dist/gradients-in-depth.zip: the course without solutions
	$(RUN) -m tools.release $(RELEASE_ARGS)

grade: dev ## Grade a class: SUBMITTED=folder of STUDENT/NAME/NAME.ipynb (GRADE_ARGS=--help says more)
	$(RUN) -m tools.grading "$(SUBMITTED)" $(GRADE_ARGS)

formgrader: dev ## Read and grade by hand what `make grade` left to a person, in a browser
	@test -e "$(SUBMITTED)/../grading/nbgrader_config.py" || \
		{ echo "Nothing was graded yet: there is no $(SUBMITTED)/../grading. Run make grade first." >&2; exit 1; }
	cd "$(SUBMITTED)/../grading" && $(abspath $(RUN)) -m jupyter server --ServerApp.root_dir=. \
		--ServerApp.default_url=/formgrader/gradebook --ServerApp.open_browser=True $(LAB_ARGS)
# END STAFF

clean: ## Remove the environment and all caches
	rm -rf $(VENV) $(VENV)-newest $(VENV)-oldest build utils/*.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# An environment that finished once and does not work now (this folder was moved or copied, Python was
# upgraded) is made anew; one that was interrupted is continued.
environment:
	@test ! -e $(INSTALLED) || $(RUN) -I -c "import importlib.util as i, pathlib as p, sys; \
		sys.exit(p.Path(i.find_spec('gradients_in_depth').submodule_search_locations[0]).resolve() \
		!= p.Path('utils/gradients_in_depth').resolve())" \
		2>/dev/null || rm -rf $(VENV)
	@$(MAKE) --silent $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	command -v $(PYTHON) >/dev/null || \
		{ echo "The course needs Python 3.11 or newer, and there is no $(PYTHON) here." >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("The course needs Python 3.11 or newer, and \
	$(PYTHON) is %d.%d. Name a newer one: make lab PYTHON=python3.12" % sys.version_info[:2])'
	echo "Installing what the course needs into $(VENV) (once; a few minutes) ..."
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --quiet --no-deps --editable .
	$(HIDE) $(HIDDEN) >/dev/null 2>&1
	touch $@

# BEGIN STAFF
dev: environment
	@$(MAKE) --silent $(COMPLETE)

$(COMPLETE): requirements-dev.txt $(INSTALLED)
	echo "Installing what tests, builds and grades the course into $(VENV) (once; a few minutes) ..."
	$(PIP) -r requirements-dev.txt
	$(PIP) --quiet --no-deps $(TIMM)
	$(HIDE) $(HIDDEN_MENU) >/dev/null 2>&1
	touch $@

# END STAFF
# JupyterLab runs the pictures of a stored notebook only when the notebook is trusted.
$(TRUSTED): $(INSTALLED) $(wildcard notebooks/*.ipynb solutions/*/*.ipynb)
	$(RUN) -m jupyter trust $(wildcard notebooks/*.ipynb solutions/*/*.ipynb) >/dev/null
	touch $@
