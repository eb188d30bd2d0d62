# `make demo` shows it, `make test` checks it. Both set up what they need in .venv first.

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough; `make PYTHON=/path/to/python3` takes another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
QUIET := -qq --disable-pip-version-check
SEED ?= 1
COUNT ?= 100000
SEEDS ?= 1000

.PHONY: help setup demo test check unit coverage package interop interop-slice fuzz simulate soak bench lock clean

help:
	@echo "make demo     two nodes share a safetensors file, found through a third (under a minute)"
	@echo "make test     everything that must hold before a commit"
	@echo "make setup    .venv with the locked dependencies; the two above do it by themselves"
	@echo "make check    ruff and mypy        make unit     pytest; make coverage: what it reaches"
	@echo "make package  sdist, wheel, and tests of the installed wheel"
	@echo "make interop  against go, js, rust, python libp2p   make fuzz / make soak   longer runs"
	@echo "make simulate networks under a virtual clock, SEEDS=1000 times each"
	@echo "make bench    every benchmark, quick                make lock     renew the locked versions"

setup: $(VENV)/.setup

$(VENV)/.setup: pyproject.toml requirements-dev.lock requirements-libp2p.lock
	@test -n "$(PYTHON)" || { \
		echo "lattica needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV)"
	@$(BIN)/python -m pip install $(QUIET) --require-hashes \
		-r requirements-dev.lock
	@$(BIN)/python -m pip install $(QUIET) --no-deps \
		--no-build-isolation --editable .
	@$(BIN)/python -m pip install $(QUIET) --require-hashes \
		--no-build-isolation -r requirements-libp2p.lock >$(VENV)/libp2p.log 2>&1 || { \
		echo "note: the extra 'libp2p' is left out: py-libp2p's services cannot run on the mesh; the rest works."; \
		echo "      It needs a C compiler, Python headers and GMP headers (Debian: gcc python3-dev libgmp-dev; see $(VENV)/libp2p.log), then: touch pyproject.toml && make setup"; }
	@# py-libp2p brings type stubs of a Trio of long ago, which would hide Trio's own types.
	@rm -rf $(VENV)/lib/python3*/site-packages/trio-stubs $(VENV)/lib/python3*/site-packages/outcome-stubs
	@touch $@

demo: setup
	@$(BIN)/python examples/demo.py

test: check unit package

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest -q

# What the tests reach; twice as slow as they are.
coverage: setup
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage report --format=total

# What users install is the wheel: it is built, looked into, installed alone beside what it says it
# needs, driven, and tested. -P keeps the checkout off the import path.
WHEEL := $(VENV)-wheel/bin/python
package: setup
	rm -rf build dist
	$(BIN)/python -m build --no-isolation --outdir dist . >$(VENV)/build.log 2>&1 || \
		{ cat $(VENV)/build.log; exit 1; }
	$(BIN)/check-wheel-contents dist/*.whl
	$(PYTHON) -m venv --clear $(VENV)-wheel
	$(WHEEL) -m pip install $(QUIET) --require-hashes -r requirements.lock
	$(WHEEL) -m pip install $(QUIET) --no-deps dist/*.whl
	$(WHEEL) -m pip check
	cd $(VENV)-wheel && bin/python ../examples/demo.py --mib 8
	$(WHEEL) -m pip install $(QUIET) --require-hashes -r requirements-dev.lock
	$(WHEEL) -P -m pytest -q tests/test_errors.py tests/test_layers.py tests/base \
		tests/node/test_node.py tests/node/test_sync.py tests/node/test_models.py

interop: setup
	$(BIN)/python tests/interop/install_peers.py
	$(BIN)/python -m pytest -q -m interop tests/interop

# What continuous integration has time for: go-libp2p alone.
interop-slice: setup
	$(BIN)/python tests/interop/install_peers.py go
	$(BIN)/python -m pytest -q -m interop -k go tests/interop

fuzz: setup
	$(BIN)/python tests/fuzz --seed $(SEED) --count $(COUNT)

# Each scenario under each seed; what fails is named with the command that replays it.
simulate: setup
	$(BIN)/lattica sim all --seeds 1..$(SEEDS)

soak: setup
	$(BIN)/python -m pytest -q -m slow tests

bench: setup
	for name in stream fetch connect memory swarm faults dht delta rows codec; do $(BIN)/python -m benchmarks $$name --quick || exit 1; done

# Only this target needs the tool that resolves versions, and gives it an environment of its own.
# The largest set is resolved first and holds for the others, so that they fit on top of each other.
COMPILE = $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command "make lock" pyproject.toml
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install $(QUIET) uv
	$(COMPILE) --upgrade --group test --group lint --extra libp2p \
		--output-file requirements-libp2p.lock >/dev/null
	$(COMPILE) --upgrade --group test --group lint --constraint requirements-libp2p.lock \
		--output-file requirements-dev.lock >/dev/null
	$(COMPILE) --upgrade --constraint requirements-libp2p.lock \
		--output-file requirements.lock >/dev/null

clean:
	rm -rf build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		$(VENV)-wheel $(VENV)-lock
