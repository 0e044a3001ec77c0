# make demo: see it work.   make test: everything this machine can run.
# Nothing here changes the machine beyond its packages, .venv and namespaces of its own.
.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz bench lint clean packages test-packages
# Without compiled modules every start of Python is slower than what users have.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(PATH):/usr/sbin:/sbin
INPUTS := setup.cfg pyproject.toml scripts/setup scripts/python scripts/meshnet-init

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.with-lab ## install system packages and .venv (root, Debian or Ubuntu)

demo: setup ## two pods, two real Envoys, one request through both (root)
	@.venv/bin/python -m meshnet.lab.demo

test: .venv/.with-test ## run all tests that this machine can, say what was left out
	@scripts/test $(ARGS)

fuzz: .venv/.with-test ## the walk against the kernel with fresh seeds, ten minutes (root)
	@scripts/fuzz

bench: .venv/.with-lab ## measure speed; CHECK=1 fails beyond the stated ratios (root)
	@scripts/bench $(if $(CHECK),--check)

lint: .venv/.with-lint ## ruff, ruff format, mypy --strict
	@scripts/lint

clean: ## remove .venv and what builds and tests left in this checkout
	@scripts/clean

packages:
	@PYTHON=$$(scripts/python) && PYTHON=$$PYTHON scripts/packages

test-packages: # and the container runtimes that tests start, which nobody else needs
	@PYTHON=$$(scripts/python) && PYTHON=$$PYTHON scripts/packages test

.venv/.with-lab: $(INPUTS) | packages
	scripts/setup lab containers prove
	@touch $@

.venv/.with-test: $(INPUTS) | test-packages
	scripts/setup lab prove test
	@touch $@ .venv/.with-lab

.venv/.with-lint: $(INPUTS) | packages
	scripts/setup lint
	@touch $@
