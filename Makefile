# Two commands matter: `make run` and `make test`. `make` alone lists the rest.
# Needed beforehand: Python 3.11 or newer, make, and a way to the package registries.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
FULL ?= var/full
FROM_ENV_FILE = $(shell sed -n 's/^DEBUG=//p' .env 2>/dev/null)
DEBUG ?= $(or $(FROM_ENV_FILE),on)
WORKERS ?= 2
# Which ASGI server the tests and measurements run on: daphne or uvicorn.
SERVER ?= daphne
export SERVER
DEV = $(VENV)/installed-$(if $(filter daphne,$(SERVER)),dev,bench)
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
NODE = $(shell $(PY) -c "import pathlib, playwright; print(pathlib.Path(playwright.__file__).parent / 'driver' / 'node')")
# Neither the settings of a site nor its database have a say in checks.
ALONE := env DEBUG=on ENV_FILE=/dev/null DATABASE_URL= REDIS_URL=
DEPLOYED = env DEBUG=off HTTPS=on ENV_FILE=/dev/null ALLOWED_HOSTS=calls.example.com PROCESSES=2 \
	SECRET_KEY="$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(48))')" \
	DATABASE_URL=postgres://db.example.com/calls REDIS_URL=rediss://redis.example.com

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run run-full test unit js browser screens chromium check check-long security fuzz checker engine chaos types fix docs messages bench lock clean

help:
	@echo "make run        serve on SQLite, with demo users (HOST, PORT and DEBUG are respected)"
	@echo "                LAN=1: on HTTPS for the network of this machine, with DEBUG off"
	@echo "make run-full   the same on PostgreSQL and Redis, started here; the data stays in $(FULL)"
	@echo "make test       all tests, on a PostgreSQL and a Redis of their own, and in a browser"
	@echo "make unit | js | browser   parts of it; ARGS='-k word' is passed on to pytest"
	@echo "make screens    take a picture of every screen, into var/screens"
	@echo "make check      format, lint, types, security checks and tests: what CI runs"
	@echo "make check-long the same, and make fuzz, checker, engine and chaos: less than an hour"
	@echo "make chaos      break servers and stores while people call: about twelve minutes, writes docs/reliability.md"
	@echo "make fuzz       make up frames, commands and calls for some minutes"
	@echo "make fix        format, and repair what can be repaired by itself"
	@echo "make docs       write the state table of docs/protocol.md anew, after a change of the rules"
	@echo "make messages   bring the catalogues of texts up to date, and compile them (needs GNU gettext)"
	@echo "make bench      what a call costs: about ten minutes, writes docs/performance.md; QUICK=1 takes one and only prints"
	@echo "                AGAINST=COMMIT compares this checkout with that commit, in 20 alternating pairs"
	@echo "make lock       write the lock files anew after a change of requirements*.in (UPGRADE=--upgrade for the newest)"
	@echo "make clean      remove everything that can be made again; data in var/ stays"

# --- run --------------------------------------------------------------------------------------------------------------

define START
set -e
$(PY) manage.py migrate --noinput --verbosity 0
case "$$DEBUG" in on|true|yes|1) ;; *) $(PY) manage.py collectstatic --noinput --verbosity 0 ;; esac
$(PY) manage.py roles
$(PY) manage.py demo || echo "Going on without demo users."
exec $(PY) manage.py serve $(if $(LAN),--https --host 0.0.0.0)
endef
export START

run: $(VENV)/installed $(if $(ENV_FILE),,$(if $(filter on true yes 1,$(DEBUG)),.env))
	@$(if $(LAN),exec $(PY) scripts/lan.py,DEBUG=$(DEBUG) exec) sh -c "$$START"

# The commands that people type next (`manage.py line bob`) have to find the settings that `make run` uses.
.env:
	@printf '%s\n' '# Made by `make run`, for trying things out. A real site replaces it: see .env.example.' 'DEBUG=$(DEBUG)' > .env

run-full: $(VENV)/installed-dev
	@DEBUG=$(DEBUG) exec $(PY) scripts/services.py --durable $(FULL) -- sh -c "$$START"

# --- test -------------------------------------------------------------------------------------------------------------

test: $(DEV) chromium
	@$(PY) scripts/services.py -- $(MAKE) --no-print-directory unit js browser

# Several at a time, each with a database, a Redis and servers of its own. WORKERS=0 for one at a time.
# The tests that are marked `alone` come after the others, one at a time. Status 5: ARGS chose none of these.
unit: $(DEV)
	@$(PY) -m pytest --ignore=tests/browser -m "not alone" -n $(WORKERS) --dist loadgroup $(ARGS) || [ $$? = 5 ]
	@$(PY) -m pytest --ignore=tests/browser -m alone $(ARGS) || [ $$? = 5 ]

# Node is the one that comes with playwright, so its version is locked too.
js: $(VENV)/installed-dev
	"$(NODE)" --test tests/js/*.test.mjs

# In a process of their own: playwright's event loop and pytest-asyncio's do not share one.
browser: $(DEV) chromium
	CHROMIUM="$(CHROMIUM)" DJANGO_ALLOW_ASYNC_UNSAFE=true $(PY) -m pytest -p no:asyncio \
		-W "ignore:Unknown config option:pytest.PytestConfigWarning" tests/browser $(ARGS)

# The few pictures that documents show are in docs/screens; copy them there from here after a change of the screens.
screens:
	@SCREENS=var/screens $(MAKE) --no-print-directory browser ARGS="-k pictures"
	@echo "Pictures of every screen are in var/screens."

chromium:
	@if [ -z "$(CHROMIUM)" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && apt-get install -q -y --no-install-recommends chromium; \
		else \
			echo "The browser tests need Chromium. Install it, or give its path as CHROMIUM:"; \
			echo "    sudo apt-get install chromium"; \
			exit 1; \
		fi; \
	fi

check: $(VENV)/installed-dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	@$(MAKE) --no-print-directory types security
	@$(MAKE) --no-print-directory test

# Before a release: less than an hour.
check-long: check fuzz checker engine chaos

# Nine pages that see each other through a Janus. Where none can be unpacked, the reason is said.
engine: $(DEV) chromium
	@LONG=1 $(MAKE) --no-print-directory browser ARGS="-k test_engine"

# Plants faults that the checker of `make chaos` has to find.
checker: $(VENV)/installed-dev
	LONG=1 $(PY) -m pytest tests/chaos/test_checker.py

# No password or key in a tracked file; and no warning of Django's about a site that is set up as the README says.
security: $(VENV)/installed-dev
	$(PY) scripts/secret_scan.py
	$(DEPLOYED) $(PY) manage.py check --deploy --fail-level WARNING

types: $(VENV)/installed-dev
	$(ALONE) $(PY) -m mypy
	$(ALONE) $(PY) manage.py makemigrations --check --dry-run

fix: $(VENV)/installed-dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(VENV)/installed-dev
	$(PY) -m tests.walk

# Translate what is new in calls/locale between the two lines' works: run it again then.
MESSAGES = $(ALONE) $(PY) manage.py makemessages --locale de --no-obsolete --add-location file --no-wrap \
	--ignore "$(VENV)" --ignore var --ignore tests --ignore benchmarks

messages: $(VENV)/installed-dev
	$(MESSAGES)
	$(MESSAGES) --domain djangojs
	$(ALONE) $(PY) manage.py compilemessages --locale de --ignore "$(VENV)"

# Makes up frames, commands and calls; FUZZ=1 is what `make test` does. What was found once: tests/fuzz/corpus.
fuzz: $(VENV)/installed-dev
	FUZZ=$(or $(FUZZ),20) $(PY) -m pytest tests/fuzz --timeout=0 -n $(WORKERS) $(ARGS)

# --- break ------------------------------------------------------------------------------------------------------------

# ARGS='Redis' makes only the faults whose names contain the word, and writes no report.
chaos: $(VENV)/installed-dev
	$(PY) -m tests.chaos --report docs/reliability.md $(ARGS)

# --- measure ----------------------------------------------------------------------------------------------------------

bench: $(VENV)/installed-bench
	$(PY) -m benchmarks --server $(SERVER) $(if $(AGAINST),against $(AGAINST),run $(if $(QUICK),--quick))

# --- packages ---------------------------------------------------------------------------------------------------------

$(VENV)/installed: requirements.txt $(PY)
	@echo "Installing packages into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(PY)
	@echo "Installing packages, those for tests too, into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: requirements-bench.txt $(PY)
	@echo "Installing packages into $(VENV), those for measuring too"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@ $(VENV)/installed

$(PY):
	@for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$name; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or newer is needed, and none was found. If it has another name: make PYTHON=/path/to/python3"; \
		exit 1; \
	fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv; \
		else \
			echo "$$found cannot make virtual environments here, because a part of it is packaged apart. Install that:"; \
			echo "    sudo apt-get install python3-venv"; \
			exit 1; \
		fi; \
	fi; \
	$$found -m venv --clear $(VENV)

COMPILE = $(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(UPGRADE)

lock: $(PY)
	@$(PY) -m uv --version >/dev/null 2>&1 || $(PY) -m pip install --quiet --disable-pip-version-check uv
	$(COMPILE) requirements.in -o requirements.txt
	$(COMPILE) --constraint requirements.txt requirements-dev.in -o requirements-dev.txt
	$(COMPILE) --constraint requirements-dev.txt requirements-bench.in -o requirements-bench.txt

clean:
	rm -rf $(VENV) var/static .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
