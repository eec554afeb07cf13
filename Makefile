# Every command of the project. `make` prints this list. Needs make and python 3.11 or 3.12, no more.
.DEFAULT_GOAL := help
.PHONY: help setup up down demo test test-services fuzz simulate-long check lint types arch drift bench openapi \
        lock clean

# python3 if it is one that fits, else a fitting one beside it; what is wrong is said by bootstrap.py.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
  && echo $$p && exit; done; echo python3)
BIN := .venv/bin
SETUP := $(PYTHON) deploy/bootstrap.py

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## make every environment (the other targets make what they need)
	@$(SETUP) control-plane agent triton demo-models mlflow convert

up: ## start the control plane: web, worker, beat, broker (WAYPOST_PORT, WAYPOST_DATA_DIR); Ctrl-C stops it
	@$(SETUP) control-plane
	@$(BIN)/python manage.py up

down: ## stop what `make up` started
	@$(BIN)/python manage.py down

demo: ## three sites with real Tritons, three rollouts, the console (ONCE=1: check, stop, exit)
	@$(SETUP) control-plane agent triton demo-models
	@$(BIN)/python -m deploy.demo $(if $(ONCE),--once)

test: ## the whole suite on the embedded default, with real Tritons
	@$(SETUP) control-plane agent triton demo-models mlflow convert
	@$(BIN)/python -m tests.suites

test-services: ## the services' tests on PostgreSQL and Redis
	@$(SETUP) control-plane
	@$(BIN)/python -m tests.suites services

fuzz: ## 12,000 requests made from the OpenAPI document, good and bad ones
	@$(SETUP) control-plane
	@WAYPOST_FUZZ_REQUESTS=12000 $(BIN)/python -m pytest -q -s --show-capture=no tests/api/test_schemathesis.py

simulate-long: ## 1,000 simulated sites, 24 virtual hours, 50 seeds, both decisions in the loop (under an hour)
	@$(SETUP) control-plane
	@DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py simulate \
	  --sites 1000 --hours 24 --seed 1 --seeds 50 --jobs 2

check: lint types arch drift test ## all that CI runs

lint: ## style and formatting
	@$(SETUP) control-plane agent
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run $(BIN)/ruff format"; exit 1; }

types: ## mypy: strict where safety is decided
	@$(SETUP) control-plane agent
	@$(BIN)/mypy controlplane benchmarks
	@$(BIN)/mypy --config-file cli/pyproject.toml cli/src
	@.venv-agent/bin/mypy --config-file agents/pyproject.toml agents/src

arch: ## import contracts
	@$(SETUP) control-plane
	@PYTHONPATH=.:agents/src:cli/src $(BIN)/lint-imports

drift: ## migrations and the OpenAPI document say what the code says
	@$(SETUP) control-plane
	@DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py makemigrations --check --dry-run
	@DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py spectacular --fail-on-warn \
	  | diff -u docs/api/openapi.yaml - || { echo "docs/api/openapi.yaml is old: run make openapi"; exit 1; }

openapi: ## renew docs/api/openapi.yaml
	@DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py spectacular --fail-on-warn \
	  --file docs/api/openapi.yaml

bench: ## benchmarks, each against a peer measured in the same run
	@$(SETUP) control-plane agent
	@$(BIN)/python -m benchmarks

lock: ## resolve every lock file anew
	@sh deploy/lock.sh
	@$(PYTHON) deploy/docker/lock.py

clean: ## remove environments, data of the demo and caches (not ./data)
	rm -rf .venv .venv-agent .triton .demo .mlflow .convert test-results
