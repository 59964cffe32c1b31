# make serve    an example app on http://127.0.0.1:8000
# make test     every test
# make help     the rest
# Both set up what they need: the virtual environment, and as root also missing Debian packages.

VENV ?= .venv
PYTHON ?= $(shell tools/find-python.sh)
PYTEST_ARGS ?=
# Most tests wait for servers most of the time.
JOBS ?= $(shell echo $$(( $$(nproc) < 6 ? $$(nproc) + 2 : 8 )))
SECONDS ?= 60
ROUNDS ?= 5

BIN := $(VENV)/bin
AGENTS := build/agents
NATIVE := $(wildcard $(foreach kind,pyx pxd h c,server/pyserve/*/*.$(kind) workers/pyserve_workers/*/*.$(kind)))
REQUIREMENTS := $(wildcard examples/*/requirements.txt)
PLAIN_C := $(patsubst %,workers/pyserve_workers/http1/%.c,http1 h1_values h1_memory h1_chunked)

# Else each of the thousands of processes that the tests start would compile all that it imports. What they start writes
# none (tests/conftest.py).
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help serve test test-all lint conformance fuzz fuzz-e2e asan chaos agents apps bench bench-start bench-gate bench-memory bench-reload bench-fair clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

serve: $(VENV)/stamp-serve ## serve examples/flask_app on http://127.0.0.1:8000 with four workers
	cd examples/flask_app && $(abspath $(BIN))/pyserve app:app --workers 4 --pid $(abspath $(VENV))/pyserve.pid

test: $(VENV)/stamp-test ## run every test, in JOBS processes; PYTEST_ARGS="-k reload tests/lifecycle" for some
	@$(BIN)/python -m compileall -q server workers
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

test-all: ## run every test with each Python from 3.11 to 3.15 that is here
	@tools/each-python.sh 3.11 3.12 3.13 3.14 3.15

lint: $(VENV)/stamp-dev ## ruff, mypy, and the plain C under the compiler's strictest eye
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(CC) -std=c17 -Wall -Wextra -Wconversion -Wshadow -Werror -fsyntax-only $(PLAIN_C)
	$(BIN)/python tools/h1_tables.py --check

conformance: $(VENV)/stamp-test ## send the requests of a public suite, print what came of each; CASES=FILE names its cases
	@PYTHONPATH=tests CASES="$(CASES)" $(BIN)/python -m conformance

fuzz: $(VENV)/stamp-test ## feed the parser broken requests under the sanitizers for SECONDS=60
	tests/fuzz/run.sh $(SECONDS)

fuzz-e2e: $(VENV)/stamp-test ## sound, broken and mutated connections to whole servers for SECONDS=60; PYSERVE_FUZZ_SEED=7 CLASSES=sync or CASE=FILE plays one again
	@PYTHONPATH=tests SECONDS=$(SECONDS) CLASSES="$(CLASSES)" CASE="$(CASE)" $(BIN)/python -m fuzz

asan: $(VENV)/stamp-test ## run the tests of the native code under the sanitizers; PYTEST_ARGS="tests/wire/test_input.py" for some
	PYTHON=$(BIN)/python JOBS=$(JOBS) tests/asan/run.sh $(PYTEST_ARGS)

chaos: $(VENV)/stamp-test ## crashes, deploys and signals at random under load for SECONDS=60; PYSERVE_CHAOS_SEED=7 CLASSES=gevent plays one again
	@PYTHONPATH=tests SECONDS=$(SECONDS) CLASSES="$(CLASSES)" $(BIN)/python -m chaos

agents: $(VENV)/stamp-agents ## run pyserve under ddtrace, OpenTelemetry, New Relic and coverage, with collectors of our own
	AGENTS=$(abspath $(AGENTS)) $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/agents

apps: $(VENV)/stamp ## real applications with their own clients while HUP follows HUP; APPS="dash hgweb" for some of them
	@tools/bootstrap.sh --app-tools
	@PYTHON=$(abspath $(BIN))/python PYTEST_ARGS='$(PYTEST_ARGS)' tests/apps/run.sh $(APPS)

bench: SECONDS = 3
bench: ## what a request costs beside other servers; CASES=hello,close SERVERS=pyserve,granian ROUNDS=5 SECONDS=3
	$(PYTHON) benchmarks/bench.py --rounds $(ROUNDS) --seconds $(SECONDS) \
		$(if $(CASES),--cases "$(CASES)") $(if $(SERVERS),--servers "$(SERVERS)")

bench-start: ## time to the first answer, and memory, beside gunicorn and uWSGI
	$(PYTHON) benchmarks/start.py

bench-gate: ## how long it takes until a request is alone, and what that costs the others
	$(PYTHON) benchmarks/gate.py

bench-memory: ## private and shared memory of 1, 4 and 16 workers of the Django example, with and without preload, beside gunicorn
	$(PYTHON) benchmarks/memory.py

bench-reload: RELOADS = 20
bench-reload: ## what clients notice of reloads, stops and crashes beside other servers; ROWS=direct,nginx SERVERS=... RELOADS=20
	$(PYTHON) benchmarks/reload.py --reloads $(RELOADS) \
		$(if $(ROWS),--rows "$(ROWS)") $(if $(SERVERS),--servers "$(SERVERS)")

bench-fair: ROUNDS = 3
bench-fair: SECONDS = 20
bench-fair: ## who waits for whom when requests are short and long, beside other servers; SERVERS=pyserve,granian ROUNDS=3 SECONDS=20
	$(PYTHON) benchmarks/fair.py --rounds $(ROUNDS) --seconds $(SECONDS) $(if $(SERVERS),--servers "$(SERVERS)")

clean: ## remove what make has made
	rm -rf .venv .venv-3.* benchmarks/.venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	rm -rf pyserve.egg-info server/pyserve.egg-info server/pyserve/*/*.so workers/pyserve_workers/*/*.so
	find server workers tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says what has been installed. The checkout itself is installed, so a changed .py counts at once; whatever
# changes the native modules or the metadata installs again. Only the first one builds.
$(VENV)/stamp: setup.cfg setup.py pyproject.toml tools/bootstrap.sh $(NATIVE)
	@tools/bootstrap.sh "$(VENV)" "$(PYTHON)"
	@touch $@

$(VENV)/stamp-serve: $(VENV)/stamp examples/flask_app/requirements.txt
	@echo "pyserve: installing what examples/flask_app needs"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r examples/flask_app/requirements.txt
	@touch $@

$(VENV)/stamp-test: $(VENV)/stamp $(REQUIREMENTS)
	@tools/bootstrap.sh --test-tools
	@echo "pyserve: installing what the tests need"
	@$(BIN)/python tools/extra.py test >$(VENV)/test.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/test.txt $(REQUIREMENTS:%=-r %)
	@touch $@

# In an environment of their own: agents patch whatever they find.
$(VENV)/stamp-agents: $(VENV)/stamp-test tests/agents/requirements.txt
	@echo "pyserve: installing the agents"
	@$(BIN)/python -m venv $(AGENTS)
	@$(AGENTS)/bin/pip install --quiet --disable-pip-version-check -r tests/agents/requirements.txt
	@printf '%s\n' $(abspath server) $(abspath workers) > $$(echo $(AGENTS)/lib/python3.*/site-packages)/pyserve.pth
	@touch $@

$(VENV)/stamp-dev: $(VENV)/stamp-test
	@echo "pyserve: installing the linters"
	@$(BIN)/python tools/extra.py dev >$(VENV)/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/dev.txt
	@touch $@
