# One command each. `make` alone lists them. Only Python >= 3.11 with venv, make and git are needed for install, test and demo.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
TESTS ?= tests
SEED ?= 0
SEEDS ?= 10000
FRAMES ?= 1000000
MINUTES ?= 10

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# The stamp is newer than what names the dependencies, so a second `make install` does nothing.
$(VENV)/.installed: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv found; try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -qq --disable-pip-version-check --upgrade pip 'setuptools>=77' wheel
	$(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation --editable '.[dev]'
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## make .venv with everything in it (does nothing when up to date)

.PHONY: test
test: install ## the whole test suite (TESTS=tests/wire for a part)
	$(PY) -m pytest $(TESTS)

.PHONY: check
check: install ## lint, format, types, layers, links, documents, wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --output-format concise .
	$(BIN)/mypy -p logeion
	$(BIN)/lint-imports --no-logo
	$(PY) .ci/check_tree.py

.PHONY: types
types: install ## what a user's type checker sees of the built wheel: everything has a type
	test -x .tools/types/bin/pyright || ($(PYTHON) -m venv .tools/types && .tools/types/bin/pip install -qq --disable-pip-version-check pyright)
	$(PY) .ci/check_tree.py --wheel .tools/types/wheel
	.tools/types/bin/pip install -qq --disable-pip-version-check --force-reinstall .tools/types/wheel/logeion-*.whl
	cd .tools/types && PATH="$$PWD/bin:$$PATH" VIRTUAL_ENV="$$PWD" bin/pyright --ignoreexternal --verifytypes logeion

.PHONY: format
format: install ## write what `make check` asks of the layout
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: demo
demo: install ## three nodes: publish the standard library's source, kill a leader half way, lose nothing
	$(BIN)/logeion demo

.PHONY: sim
sim: install ## simulate a whole cluster, a group's machine and the quorum's Raft: SEEDS=10000 worlds each from SEED=0 on
	$(PY) -m tests.sim.cluster_world --start $(SEED) --seeds $(SEEDS) --jobs 2 --keep
	$(PY) -m tests.sim.group_world --start $(SEED) --seeds $(SEEDS) --protocol classic
	$(PY) -m tests.sim.group_world --start $(SEED) --seeds $(SEEDS) --protocol consumer
	$(PY) -m tests.sim.raft_world --start $(SEED) --seeds $(SEEDS)

.PHONY: fuzz
fuzz: install ## damaged frames: FRAMES=1000000 into the decoders, 20,000 into a live node, from SEED=0
	$(PY) -m tests.wire.fuzz --frames $(FRAMES) --seed $(SEED)
	$(PY) -m tests.cluster.fuzz_live --frames 20000 --seed $(SEED)

.PHONY: chaos
chaos: install ## MINUTES=10 of kill -9, SIGSTOP and restarts on three nodes under load, judged: SEED=0
	$(PY) -m tests.cluster.chaos --minutes $(MINUTES) --seed $(SEED)

.PHONY: tools
tools: install ## fetch the foreign clients and brokers that the interop tests and benchmarks use into .tools/
	$(PY) -m tests.interop.peers fetch

.PHONY: kafka-peer
kafka-peer: tools ## run the interop tests against a real Apache Kafka instead of Logeion
	$(PY) -m tests.interop.peers run kafka -- $(PY) -m pytest tests/interop

.PHONY: client-peer
client-peer: tools ## run the client's integration tests against a real Apache Kafka instead of Logeion
	$(PY) -m tests.interop.peers run kafka -- $(PY) -m pytest tests/client/test_broker.py tests/client/test_sync.py \
		tests/client/test_subscriber.py tests/client/test_compat.py tests/client/test_guide.py

.PHONY: bench
bench: tools ## every figure of the README (an hour; `python -m bench.compare --help` for parts)
	$(PY) -m bench.compare
	$(PY) -m bench.replicated
	$(PY) -m bench.partitions
	$(PY) -m bench.growth
	$(PY) -m bench.catchup

.PHONY: wheel
wheel: install ## build the wheel into dist/
	$(PY) .ci/check_tree.py --wheel dist

.PHONY: clean
clean: ## remove what was built (not .venv, not .tools)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks .coverage*
