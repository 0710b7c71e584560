# `make run` and `make test` set up everything they need in .venv, from hashed lock files.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE =
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

.PHONY: run test test-cluster check format lint types simulate bench lock clean

run: .venv/run.stamp ## serve, prove it with a live transcript, say how to chat
	@$(BIN)/angarium serve --self-check

test: .venv/dev.stamp .venv/balancers.stamp ## every test
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not cluster"

test-cluster: .venv/dev.stamp .venv/balancers.stamp ## Redis and MongoDB-protocol servers killed, paused and failed over
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m cluster

check: .venv/dev.stamp format lint types test ## what a change must pass

format: .venv/dev.stamp
	@$(BIN)/ruff format --check src tests examples

lint: .venv/dev.stamp
	@$(BIN)/ruff check src tests examples

types: .venv/dev.stamp
	@$(BIN)/mypy src/angarium tests/contract

simulate: .venv/dev.stamp ## more seeds: make simulate SEEDS=20000, or one: make simulate SEED=17
	@$(BIN)/python -m angarium.testing.simulation --jobs 2 \
	  $(if $(SEED),--seed $(SEED) --verbose,--seeds $(or $(SEEDS),2000))

bench: .venv/dev.stamp ## first figures: make bench NAME=append
	@$(BIN)/angarium bench $(or $(NAME),append)

lock: .venv/dev.stamp ## write the lock files anew
	@$(PIP) install uv
	@$(BIN)/uv pip compile -q pyproject.toml --extra build --universal --python-version 3.11 \
	  --generate-hashes --no-header -o locks/run.txt
	@$(BIN)/uv pip compile -q pyproject.toml --extra build --extra dev --universal \
	  --python-version 3.11 --generate-hashes --no-header -o locks/dev.txt
	@$(BIN)/uv pip compile -q pyproject.toml --extra cluster -c locks/dev.txt --universal \
	  --python-version 3.11 --generate-hashes --no-header -o locks/image.txt
	@echo "hatchling>=1.27" | $(BIN)/uv pip compile -q - -c locks/dev.txt --universal \
	  --python-version 3.11 --generate-hashes --no-header -o locks/build.txt

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Angarium needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/run.stamp: locks/run.txt pyproject.toml | .venv/bin/python
	@echo "Setting up .venv (once) ..."
	@$(PIP) install --require-hashes -r locks/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

.venv/dev.stamp: locks/dev.txt pyproject.toml | .venv/bin/python
	@echo "Setting up .venv for development (once) ..."
	@$(PIP) install --require-hashes -r locks/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@ .venv/run.stamp

# The load balancers that tests start. Packages of the machine are changed in CI only.
.venv/balancers.stamp: | .venv/bin/python
	@PATH="$$PATH:/usr/sbin"; \
	if command -v nginx >/dev/null && command -v haproxy >/dev/null; then touch $@; \
	elif [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	  { timeout 120 apt-get update && timeout 240 apt-get install -y --no-install-recommends \
	    nginx-light haproxy; } >.venv/balancers.log 2>&1 && touch $@ \
	  || echo "nginx and haproxy could not be installed: see .venv/balancers.log"; \
	else echo "Tests of load balancers are skipped: install nginx and haproxy to run them."; fi

clean:
	rm -rf .venv .angarium .pytest_cache .mypy_cache .ruff_cache .hypothesis
