# Each target, alone, sets up what it needs in .venv, and then runs one command.
#
#   make test ARGS=tests/broker/contract     what ARGS says goes to the command
#   make test ARGS='-n0 -s -k attach'       in one process, with what the tests print
#   make test PYTHON=python3.13             another Python, 3.11 or later

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The name of each package, while pip fetches it: an installation takes a minute or two on a slow machine.
# Not awk, which may read ahead.
NAMES := while read -r step name rest; do case "$$step $$name" in \
	"Installing collected") echo "    all fetched; putting them in place";; \
	Collecting* | Processing*) echo "    $${name\#\#*/}";; esac; done

.DEFAULT_GOAL := help
.PHONY: help demo test faults lint bench check-package clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 22

demo: $(VENV)/installed ## count the words of Python's standard library with two workers, in half a minute
	@$(BIN)/gloom demo $(ARGS)

test: $(VENV)/installed-dev ## run the tests
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

faults: $(VENV)/installed-dev ## run the tests that flood, stop and cut off real processes, in two minutes
	@$(BIN)/python -m pytest -m faults --numprocesses 0 $(ARGS)

lint: $(VENV)/installed-dev ## check format, style, types and the laws of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/installed-bench ## compare what a job costs with other job servers, in ten minutes (ARGS=--quick: one)
	@$(BIN)/python -m bench --json build/bench/results.json --plot build/bench/results.png $(ARGS)

check-package: $(VENV)/installed-dev ## build wheel and sdist, install them in fresh environments, run them
	@$(BIN)/python .ci/check_package.py

clean: ## remove .venv and all that was made by building and testing
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are files, so that a second run installs nothing until pyproject.toml changes.

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "gloom needs Python 3.11 or later, and $(PYTHON) is not: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "making the environment $(VENV) (this once)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: pyproject.toml $(VENV)/created
	@echo "installing gloom and the packages that it needs:"
	@rm -f $@; { $(PIP) install --editable . && touch $@; } | $(NAMES); test -e $@

# The pip of Python 3.11 does not know dependency groups yet.
$(VENV)/installed-dev: pyproject.toml $(VENV)/installed
	@echo "installing the packages for development:"
	@$(PIP) install -qq --upgrade 'pip>=25.1'
	@rm -f $@; { $(PIP) install --group dev && touch $@; } | $(NAMES); test -e $@

$(VENV)/installed-bench: pyproject.toml $(VENV)/installed
	@echo "installing the packages for the comparison:"
	@$(PIP) install -qq --upgrade 'pip>=25.1'
	@rm -f $@; { $(PIP) install --group bench && touch $@; } | $(NAMES); test -e $@
