# Everything a developer types. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE = 1

TESTS := tests/unit tests/k8s tests/contract tests/integration tests/e2e --ignore tests/k8s/real

.PHONY: help demo test second-look second-look-real check lint types imports stubs contract-lint protos engines test-unit test-contract test-integration test-e2e \
	k8s-test k8s-test-real k8s-tools api-docs api-docs-check bandit secrets secrets-accept vulnerabilities requirements clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# uv installs the pinned, hashed requirements in seconds; pip is the way to uv.
.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/.run: .venv/bin/uv requirements.txt pyproject.toml
	@test -e .venv/.dev || $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

.venv/.dev: .venv/bin/uv requirements-dev.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@ .venv/.run

demo: .venv/.run ## See the whole system work: up, import, ask, down
	@BIN=$(BIN) scripts/demo.sh

test: .venv/.dev engines k8s-tools ## Every test but the control plane's, quick ones first, on the real engines
	$(BIN)/python -m pytest $(TESTS)

second-look: # of .ci/run alone
	$(BIN)/python scripts/second_look.py $(TESTS)

second-look-real:
	$(BIN)/python scripts/second_look.py tests/k8s/real

test-unit: .venv/.dev ## Tests that take milliseconds
	$(BIN)/python -m pytest tests/unit

test-contract: .venv/.dev engines ## One suite per port, on every adapter
	$(BIN)/python -m pytest tests/contract

test-integration: .venv/.dev engines ## Real processes, mutual TLS, real engines
	$(BIN)/python -m pytest tests/integration

test-e2e: .venv/.dev engines ## The command
	$(BIN)/python -m pytest tests/e2e

k8s-test: .venv/.dev engines k8s-tools ## The manifests: schemas, the contract's pairs, proxies, mutations
	$(BIN)/python -m pytest tests/k8s --ignore tests/k8s/real

k8s-test-real: .venv/.dev engines ## The manifests on a real control plane, up to a cited answer
	@scripts/kubernetes.sh real
	$(BIN)/python -m pytest tests/k8s/real

k8s-tools:
	@scripts/kubernetes.sh quick

check: lint types imports stubs contract-lint api-docs-check bandit secrets ## ruff, mypy --strict, import rules, stubs, buf lint, bandit, secrets in the tree

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

imports: .venv/.dev
	$(BIN)/lint-imports --no-logo

stubs: .venv/.dev
	BIN=$(BIN) scripts/protos.sh --check

contract-lint: .venv/.dev
	cd protos && ../$(BIN)/buf lint

bandit: .venv/.dev
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive runtime services gateway client scripts bench

secrets: .venv/.dev
	$(BIN)/python scripts/secret_scan.py

secrets-accept: .venv/.dev ## Write what looks like a secret and is none to .secrets.json
	$(BIN)/python scripts/secret_scan.py --accept

vulnerabilities: .venv/.dev ## Known vulnerabilities of what is pinned; ADVISORIES=URL asks an OSV service of your own
	$(BIN)/python scripts/vulnerabilities.py $(ADVISORIES)

api-docs: .venv/.dev ## Write docs/api.md anew from the protos' comments
	$(BIN)/python scripts/api_docs.py

api-docs-check: .venv/.dev
	$(BIN)/python scripts/api_docs.py --check

protos: .venv/.dev ## Regenerate the stubs beside the protos
	BIN=$(BIN) scripts/protos.sh

engines: ## Install the real engines for tests (cached outside the tree)
	@scripts/engines.sh

requirements: .venv/bin/uv ## Pin the dependencies anew (hashes, no index address)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements-dev.txt
	echo "# What builds and installs the wheel in the image: pinned like everything else. Made by 'make requirements'." \
	  >deploy/image/build-requirements.txt
	printf 'hatchling\nuv\n' | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --quiet >>deploy/image/build-requirements.txt

clean: ## Remove the environment and the demo's data
	rm -rf .venv .demo
