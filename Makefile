.DEFAULT_GOAL := help
.PHONY: help setup scenario scenarios test lint serve schema bench
PYTHON ?= python3
PROFILE ?= local

help: ## this list
	@grep -hE '^[a-z]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.* ## /  make \1\t/'

setup: ## build .venv: packages, data and the base model; done again only where something changed
	@$(PYTHON) infra/bootstrap.py

scenario: setup ## run a spec to its verdict: SPEC=medical [PROFILE=local]
	@.venv/bin/tunebook run "$(SPEC)" --profile "$(PROFILE)"

scenarios: setup ## run all specs in specs/, one after another, and print one table: [PROFILE=local]
	@.venv/bin/tunebook scenarios --profile "$(PROFILE)"

test: setup ## unit tests, then integration tests
	@.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal tests/unit
	@.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/integration

lint: setup ## style, types, and the order of the layers
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

serve: setup ## serve the OpenAI fine-tuning protocol on this machine; or a run's tuned model: RUN=medical
	@.venv/bin/tunebook serve $(RUN)

schema: setup ## write specs/scenario.schema.json, which editors complete specs with
	@.venv/bin/tunebook schema > specs/scenario.schema.json

bench: setup ## time this against other tools, in turns: NAME=data_dedup, data_validate, generate, judge, train_full, train_lora, train_memory or train_start
	@.venv/bin/python -m tests.benchmarks "$(NAME)"
