# Two commands do all the set-up: `make demo` runs the workflow, `make test` passes the suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := .venv-docs
STORAGE := .venv-storage
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))

.PHONY: demo test test-fast test-slow test-docs test-slurm test-storage test-faults test-scripts test-container fuzz coverage lint docs clean
demo: $(READY)
	$(BIN)/snakemake --cores all --logger-flops-fit-brief

# What each tier holds and how long it takes: CONTRIBUTING.md.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# For the edit loop: without what starts Snakemake, launchers or a kernel, or takes seconds.
test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not (seconds or slow or docs or slurm or storage or faults or scripts or container)'

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --durations=0

# Every command of the documentation, as it stands there, and the site.
test-docs: $(READY) $(DOCS)/.ready
	$(BIN)/python -m pytest -m docs

# Random tables through fit and report, random sweeps through plan, check and training.
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz

# Installs and starts a SLURM of its own on this machine, as root; refuses where one is configured.
test-slurm: $(READY)
	$(BIN)/python -m pytest -m slurm tests/slurm --durations=0

# Sweeps whose jobs share no file system with Snakemake. Needs root and rsync, and says so where not.
test-storage: $(STORAGE)/.ready
	$(STORAGE)/bin/python -m pytest -m storage tests/storage --durations=0

# Kills, full disks and torn files; two scenarios at a time.
test-faults: $(READY)
	$(BIN)/python -m pytest -m faults tests/faults

# The scripts of examples/scripts as trainers of real sweeps, killed in every way.
test-scripts: $(READY)
	$(BIN)/python -m pytest -m scripts tests/scripts

# Builds the image of envs/Dockerfile with buildah, as root on Debian, and runs the smoke sweep in it.
test-container: $(READY)
	$(BIN)/python -m pytest -m container tests/container --durations=0

# Lines and branches that the tests reach in their own process, without those of the workflow's jobs.
coverage: $(READY)
	$(BIN)/coverage run -m pytest --ignore tests/workflow $(TESTS)
	$(BIN)/coverage report

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# The site, in an environment of its own: build/site/index.html. A warning is an error.
docs: $(DOCS)/.ready
	$(DOCS)/bin/sphinx-build -W --keep-going -q -d build/doctrees -c docs . build/site
	@echo site: build/site/index.html

$(DOCS)/.ready: envs/docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r envs/docs.lock
	touch $@

# What only these tests need, on top of the environment below, which stays as the lock has it.
$(STORAGE)/.ready: envs/storage.lock $(READY)
	$(BIN)/python -m venv $(STORAGE)
	$(STORAGE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/storage.lock
	(echo $(CURDIR)/src; $(BIN)/python -c '$(PURELIB)') > "$$($(STORAGE)/bin/python -c '$(PURELIB)')/below.pth"
	touch $@

# The environment: exactly the lock, then this package. Made anew when either changes. TORCH names another
# build of the lock's torch, which pip then finds installed: make demo TORCH=cu126 (docs/environments.md).
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flops-fit needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH),$(BIN)/python -m pip install --quiet --disable-pip-version-check $(shell grep '^torch==' requirements.lock) --index-url https://download.pytorch.org/whl/$(TORCH))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) $(DOCS) $(STORAGE) build .snakemake .coverage .import_linter_cache .mypy_cache
