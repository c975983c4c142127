# Every target does the set-up that it needs; doing it again is fast and changes nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
DEVICE ?= cpu
LOADTEST ?= ramp
GATEWAYS ?= 1

.PHONY: setup demo test lint bench loadtest faults proto metrics constraints clean

setup: $(VENV)/.done

# torch by its exact version first: a range, asked for by another package, may take a build many times the size.
$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "padrec needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet -c constraints.txt $$(grep '^torch==' constraints.txt)
	@$(PIP) install --quiet -c constraints.txt -e '.[model,build,plot,tracing,gpu,dev,load,ray]'
	@touch $@

demo: setup
	@$(BIN)/padrec demo

test: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" tests/ensure_packages.sh
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@command -v promtool >/dev/null || echo "promtool is not here: what Prometheus reads is not checked"
	@$(BIN)/python -m pytest --quiet -m schema tests/deploy_files tests/deploy \
	  $$(command -v promtool >/dev/null || echo --ignore=tests/deploy/test_prometheus.py)

bench: setup
	@$(BIN)/padrec bench trie --items 1000000

# LOADTEST is the shape: ramp, step, spike or soak; GATEWAYS is how many stand in front of the worker. See
# loadtest/README.md.
loadtest: setup
	@$(BIN)/python -m loadtest --shape $(LOADTEST) --gateways $(GATEWAYS) --out build/loadtest/$(LOADTEST)

# What becomes of calls when something breaks under load: a table. It takes five minutes.
faults: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" tests/ensure_packages.sh
	@$(BIN)/python -m pytest -m fault tests/e2e

# The generated code is committed; a test checks that it is current.
proto: setup
	@$(BIN)/python -m service.rpc.generate

# The page is committed; a test checks that it is current.
metrics: setup
	@$(BIN)/python -m service.telemetry.describe > docs/metrics.md

constraints: setup
	@{ head -1 constraints.txt; $(PIP) freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu//' | grep -v ^triton=; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
