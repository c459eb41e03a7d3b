# SPDX-License-Identifier: GPL-3.0-or-later
# `make` lists the targets. ARGS="..." is handed to ansible-playbook (or to the test runner): make deploy ARGS="--check --diff".

INVENTORY ?= inventories/local
ARGS ?=
ONLY ?=
STACK ?= /opt/campaign

# Ansible refuses to start where the locale is not UTF-8, as in many bare containers, or is not there, as with one that SSH brings along.
export LC_ALL := C.UTF-8
# Without `activate`, what runs here finds its siblings first (molecule starts ansible-playbook, for one).
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# For a user with sudo: asked for the password once, before anything starts, where sudo wants one.
PLAYBOOK = become=$$(scripts/become $(INVENTORY) $(ARGS)) && ansible-playbook -i $(INVENTORY) $$become

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help deploy check verify status doctor logs password rotate rollback down backup drill restore export test lint unit golden mutants prove bench docs build venv venv-dev requirements clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deploy: venv ## Bring the whole platform up on this machine, verified
	@$(PLAYBOOK) site.yml $(ARGS)

check: venv ## Show what a deploy would change, and change nothing
	@$(PLAYBOOK) site.yml --check --diff $(ARGS)

verify: venv ## Verify the running stack to the full depth
	@$(PLAYBOOK) playbooks/verify.yml -e stack_verify_depth=full $(ARGS)

status: venv ## Show what is deployed and what runs of it (ARGS="-e stack_status_page=status.html" writes a page)
	@$(PLAYBOOK) playbooks/status.yml $(ARGS)

doctor: venv ## Look for what is wrong with the stack and this machine, and change nothing
	@$(PLAYBOOK) playbooks/doctor.yml $(ARGS)

logs: ## Follow the logs on this machine (ARGS="--since 10m api" those of one service)
	@scripts/logs $(STACK) $(ARGS)

password: venv ## Show the password of the page's user on this machine
	@.venv/bin/python scripts/password $(PROJECT)

rotate: venv ## Give secrets new values and deploy them (ARGS="-e rotate_secrets=redis_api_password"; all for all)
	@$(PLAYBOOK) campaign.platform.rotate_secrets $(ARGS)

rollback: venv ## Go back to the release that was in use before (ARGS="-e stack_rollback_to=ID" for another one)
	@$(PLAYBOOK) campaign.platform.rollback $(ARGS)

down: venv ## Stop the stack and remove its containers; the data stays
	@$(PLAYBOOK) campaign.platform.down $(ARGS)

backup: venv ## Set up backups on this machine, and make one (backup_repository and backup_password say where, and with what password)
	@$(PLAYBOOK) campaign.platform.backup $(ARGS)

drill: venv ## Bring the newest backup back into throw-away servers, and compare it
	@$(PLAYBOOK) campaign.platform.drill $(ARGS)

restore: venv ## Show what a restore would replace (ARGS="-e backup_restore_confirm=campaign" does it)
	@$(PLAYBOOK) campaign.platform.restore $(ARGS)

export: venv ## Write all that is stored into a directory that needs none of this (ARGS="-e backup_export_directory=/srv/export")
	@$(PLAYBOOK) campaign.platform.export $(ARGS)

test: venv-dev ## Run every test: lint, unit, application, Molecule, browser (ONLY=name runs what matches)
	@tests/run $(ONLY)

lint: venv-dev ## Run the linters
	@tests/run lint

unit: venv-dev ## Run the unit tests and the invariants of the repository
	@tests/run unit

golden: venv-dev ## Write the expected release files again, to be reviewed as a diff
	@rm -rf tests/golden/local tests/golden/prod tests/golden/prod-tls
	@tests/golden/render tests/golden

prove: venv-dev ## Fail, kill and race deploys in many ways and rotate every secret, for hours (ARGS="-k killed" for a part)
	@pytest --full -rP tests/prove tests/integration/workers tests/integration/backup tests/integration/rotation tests/integration/upgrade $(ARGS)

mutants: venv-dev ## Make small mistakes on purpose, one at a time, and see that tests notice (ARGS=program for one file of them)
	@tests/mutants/run $(ARGS)

bench: venv-dev ## Measure, beside bare Docker Compose
	@tests/bench/run $(ARGS)

docs: venv-dev ## Write the roles' READMEs again from their argument specs, and the drawing of the services from the catalogue
	@scripts/role-readmes
	@scripts/architecture-diagram

build: venv ## Build the collection
	@ansible-galaxy collection build --force

venv:
	@scripts/venv requirements.txt

venv-dev: venv
	@scripts/venv requirements-dev.txt

requirements: ## Pin again what the requirements*.in files ask for
	@scripts/pin-requirements

clean: ## Remove what the tests and builds left in the checkout, and .venv
	@rm -rf .venv .cache .ansible campaign-platform-*.tar.gz
