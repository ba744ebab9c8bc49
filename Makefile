# Everything one does with a clone of Nightshift. `make` alone lists the targets.
# Needs Python 3.11 or newer, make and git; each target sets up what else it needs, inside this folder.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

python := .venv/bin/python
# Three workers, each with a database and a broker of its own: two with whole stacks, which wait much, and one beside them
# (tests/support/scheduling.py). More only make two cores late.
workers ?= 3
# How many schedules the simulation tries of each port in `make check`, and of a deployment: nine tenths of them with one
# short build, a tenth with two long ones.
seeds ?= 500
# The first seed of `make nightly`, and the most seconds for each of its scenarios. Other nights may begin elsewhere.
first ?= 0
within ?= 1800
# More arguments for pytest, such as args="-k relay".
args ?=
# What `test-postgres` and `test-s3` run: the tests that another server could make fail.
on_postgres := $(addprefix tests/integration/,log leases relay budget gateway orchestrator snapshotter service)
on_s3 := $(addprefix tests/integration/,objects snapshotter orchestrator) tests/e2e/gateway tests/e2e/main_job/test_faults.py

.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## make .venv with every dependency (hashes checked); after it .venv/bin/nightshift works
	@scripts/setup.sh

demo: setup ## watch an agent build a small app from an idea, on this machine
	@.venv/bin/nightshift demo

test: setup ## all tests: unit, memory, integration and end to end, on the embedded stack
	$(python) -m pytest -n $(workers) --dist loadscope -q $(args)

check: lint types imports test-fast simulate ## what must be green before a commit: style, types, imports, fast tests, simulation

lint: setup ## ruff: rules and format
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --check --quiet .

types: setup ## mypy, strict, over every member
	.venv/bin/mypy libs/*/src services/*/src cli/src

imports: setup ## who may import whom (the contracts stand in .importlinter)
	.venv/bin/lint-imports --no-logo

test-fast: setup ## tests that start nothing outside their process
	$(python) -m pytest tests/unit tests/memory -n 2 -q $(args)

simulate: setup ## the ports, and a whole deployment, under random schedules, latencies, duplicates and crashes
	$(python) -m nightshift.simulation --seeds $(seeds)
	$(python) -m nightshift.simulation --seeds $$(( $(seeds) * 3 / 10 )) tests.memory.deployment.scenario:short_scenario
	$(python) -m nightshift.simulation --seeds $$(( $(seeds) / 20 )) tests.memory.deployment.scenario:scenario

nightly: setup ## the same with 20,000 seeds of each port and of the deployments; prints every failing seed
	@failed=0; bounds="--first $(first) --within $(within)"; \
	$(python) -m nightshift.simulation --seeds 20000 $$bounds || failed=1; \
	$(python) -m nightshift.simulation --seeds 18000 $$bounds tests.memory.deployment.scenario:short_scenario || failed=1; \
	$(python) -m nightshift.simulation --seeds 2000 $$bounds tests.memory.deployment.scenario:scenario || failed=1; \
	exit $$failed

mutants: setup ## remove each guard in turn, in a copy of the code, and see that the tests fail
	$(python) scripts/mutants.py

test-long: setup ## the tests with many kills, long outages or large files, which `make test` leaves out
	NIGHTSHIFT_LONG_TESTS=1 $(python) -m pytest tests/integration tests/e2e -m long -n $(workers) --dist loadscope -q $(args)

test-time: setup ## a fork at each turn of the demo build, a rewind, and its redrive, on a whole stack (a minute)
	NIGHTSHIFT_TIME_TRAVEL=1 $(python) -m pytest tests/e2e/demo/test_time_travel.py -q $(args)

test-alerts: setup ## cause the fault of each alert rule on a real stack, under a real Prometheus (Debian's; minutes)
	NIGHTSHIFT_ALERT_FAULTS=1 NIGHTSHIFT_PROMETHEUS_BIN=$$(scripts/prometheus.sh) $(python) -m pytest tests/unit/workspace/test_monitoring.py tests/e2e/alerts -q -s $(args)

docs: setup ## the documentation as a static site in .cache/site, links checked
	$(python) scripts/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict -q

test-docs: setup ## run every command and snippet of the tutorial, the how-to guides and the runbooks on one stack (minutes)
	NIGHTSHIFT_DOCS=1 $(python) -m pytest tests/integration/docs tests/e2e/docs -q -s $(args)

test-registries: setup ## npm and pip in a sandbox, against the public package registries
	NIGHTSHIFT_REGISTRY_TESTS=1 $(python) -m pytest tests/integration/egress/test_package_managers.py -q $(args)

test-long-build: setup ## a build of 250 turns whose orchestrator is killed ten times, on a strict model (minutes)
	NIGHTSHIFT_LONG_BUILD=1 $(python) -m pytest tests/integration/orchestrator/test_long_build.py -q -s $(args)

test-burst: setup ## 2,000 requests of one account at once, and ten of others, on a virtual clock (minutes)
	NIGHTSHIFT_BURST=2000 $(python) -m pytest tests/memory/orchestrator/test_fair_share.py -k burst -q --timeout 1800 $(args)

test-garbage: setup ## 1,000 rounds of garbage collection beside uploads that reuse what it is about to delete
	NIGHTSHIFT_GARBAGE_ROUNDS=1000 $(python) -m pytest tests/unit/sandboxes/test_garbage.py -q $(args)

test-kills: setup ## 500 calls on each driver while the gateway is killed 100 times, every message twice (minutes)
	NIGHTSHIFT_LONG_TESTS=1 NIGHTSHIFT_GATEWAY_CALLS=500 NIGHTSHIFT_GATEWAY_KILLS=100 $(python) -m pytest tests/e2e/gateway/test_exactly_once.py -q -s $(args)

test-leftovers: setup ## 200 builds with random faults on each driver; no sandbox, process, mount or cgroup is left (minutes)
	NIGHTSHIFT_LONG_TESTS=1 NIGHTSHIFT_LEFTOVER_BUILDS=200 $(python) -m pytest tests/e2e/gateway/test_leftovers.py -q -s $(args)

test-trees: setup ## 30 snapshots of a random tree, with files of up to 300 MB, each captured while the next turn writes
	NIGHTSHIFT_TREE_SNAPSHOTS=30 NIGHTSHIFT_TREE_LARGEST=300000000 $(python) -m pytest tests/integration/sandboxes/test_random_trees.py -q $(args)

test-storage-faults: setup ## snapshots while object store, snapshotter and gateway are killed and 30 % of the store's requests fail (minutes)
	NIGHTSHIFT_STORAGE_ROUNDS=40 $(python) -m pytest tests/integration/sandboxes/test_storage_faults.py -q $(args)

test-kafka: setup ## the broker tests against Apache Kafka (fetched once; needs Java 17 and Maven)
	NIGHTSHIFT_LONG_TESTS=1 $(python) scripts/kafka_server.py run -- $(python) -m pytest tests/integration tests/e2e/main_job/test_apache_kafka.py -m kafka -q $(args)

test-postgres: setup ## the tests of the log and of who lives on it, on PostgreSQL 15, 16 and 17 (fetched once; Java 17 and Maven)
	NIGHTSHIFT_LONG_TESTS=1 $(python) scripts/postgres_server.py run -- $(python) -m pytest $(on_postgres) -n 2 --dist loadscope -q $(args)

test-s3: setup ## the tests that keep objects, on an S3 server that checks signatures (built once; needs Go)
	NIGHTSHIFT_LONG_TESTS=1 $(python) scripts/s3_server.py run -- $(python) -m pytest $(on_s3) -q $(args)

test-commands: setup ## 600 commands and file edits of coding agents, in a sandbox and on the plain machine (minutes)
	NIGHTSHIFT_COMMANDS=all $(python) -m pytest tests/integration/commands -q $(args)

test-envd: setup ## the tests of the E2B stand-in, with E2B's own envd in the sandboxes: make test-envd ENVD=PROGRAM (root)
	NIGHTSHIFT_ENVD=$(ENVD) $(python) -m pytest tests/integration/sandboxes/test_e2b_server.py -q $(args)

test-e2b-js: setup ## the E2B stand-in against E2B's JavaScript client (needs Node 20 or newer; npm fetches the client)
	npm install --prefix .cache/e2b-js --no-save --no-package-lock --silent e2b@2.51.0
	NIGHTSHIFT_E2B_JS=$(CURDIR)/.cache/e2b-js $(python) -m pytest tests/integration/sandboxes/test_e2b_javascript.py -q $(args)

dist: setup ## every member as a wheel, a meta package `nightshift`, and pinned requirements, in dist/
	$(python) scripts/dist.py --sbom

image: setup ## the image of all services: make image, or BASE=local make image where no registry is
	scripts/image.sh

test-dist: setup ## install the wheels into an empty environment and run the demo there (minutes)
	NIGHTSHIFT_DIST_TESTS=1 $(python) -m pytest tests/deploy/test_dist.py -q $(args)

test-compose: setup ## the image, and deploy/compose with images of this machine (Docker, root, debootstrap, Java; minutes)
	NIGHTSHIFT_DOCKER_TESTS=1 $(python) -m pytest tests/deploy/test_image.py tests/deploy/test_compose.py -q -s -p no:randomly $(args)

test-kubernetes: setup ## the chart on a real Kubernetes: CLUSTER=PATH/cluster.sh starts one, else KUBECONFIG names one (half an hour)
	scripts/kubernetes.sh $(args)

bench: setup ## measure, each figure beside its limit or peer in the same run (Markdown tables)
	@for script in bench/*.py; do echo; echo "## $$script"; $(python) "$$script"; done

clean: ## remove what these targets made: .venv, caches, local stacks
	@if [ -d .cache/kafka/running ]; then python3 scripts/kafka_server.py stop; fi
	rm -rf .venv .cache .nightshift .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find libs services cli tests bench examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +
