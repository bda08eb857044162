# The two commands: make demo, make test. Everything is installed by them, into .venv and by apt-get.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell tools/find_python)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.lock-installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-hosts check venv bpf bench soak hosts docs docs-check lint sanity unit kernel prefect ansible zipapp wheelhouse release lock clean

help:  ## what can be made
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

demo: system-base venv zipapp  ## the near-OOM story, for real (root; KEEP=1 leaves the Prefect UI up)
	@$(BIN)/osremed demo near-oom $(if $(KEEP),--keep)

test: system-base system-test system-vm venv zipapp  ## everything: lint, unit, kernel, Prefect, Ansible, the whole demo, hosts
	@tools/stages all

check: venv  ## fast: lint, types, import contracts, unit tests
	@tools/stages lint unit

lint sanity unit kernel hosts prefect ansible: venv zipapp  ## one stage of the tests
	@tools/stages $@

test-hosts: system-base system-test system-vm venv zipapp  ## rollouts on namespace hosts, near-OOM in virtual machines, the long stories (an hour)
	@tools/stages hosts rollout prefect_long ansible_long demo_long vm_long

soak: system-base system-vm venv zipapp  ## half an hour of random faults on two virtual machines, from SEED: docs/soak.md (root)
	@tools/soak --minutes 30 --hosts 2 --seed $(or $(SEED),1) --page docs/soak.md

system-%:  ## system packages of a group: base, test, bench (needs root; says what is missing without it)
	@tools/install_system $*

venv: $(STAMP)  ## the locked development environment in .venv
$(STAMP): requirements/dev.lock pyproject.toml
	@echo "making .venv from requirements/dev.lock (a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --cache-dir .osremed/pip --require-hashes -r requirements/dev.lock -c requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

bpf: venv  ## the BPF objects, beside their sources (needs clang)
	@$(BIN)/python tools/build_bpf.py

zipapp: venv bpf  ## dist/osremed-host.pyz, the host plane in one file
	@$(BIN)/python tools/build_zipapp.py

wheelhouse: venv bpf  ## dist/osremed-control-...tar, the control plane for hosts without a package index
	@$(BIN)/python tools/build_wheelhouse.py

release: venv bpf  ## dist/release-VERSION: wheel, zipapp, collection, wheelhouse, SHA256SUMS, bill of materials
	@$(BIN)/python tools/build_release.py $(if $(REHEARSE),--rehearse)

bench: system-base system-bench venv bpf zipapp  ## figures with the peers in the same run: docs/scoreboard.md
	@$(BIN)/python bench/run

docs: venv  ## generated reference pages
	@$(BIN)/python tools/generate_docs.py

docs-check: venv
	@$(BIN)/python tools/generate_docs.py --check

lock:  ## a new requirements/dev.lock from pyproject.toml
	@uv pip compile --universal --python-version 3.11 --extra control --extra gpu --extra opinion --extra dev --generate-hashes \
		--no-header --quiet pyproject.toml -o requirements/dev.lock

clean:  ## what was built; not .venv
	@rm -rf osremed/sensors/bpf/*.bpf.o dist build .osremed .mypy_cache .ruff_cache .pytest_cache .hypothesis
