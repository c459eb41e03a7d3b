# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say at the end of a deploy what is there and what to type next."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.module_utils import host as machine
from ansible_collections.campaign.platform.plugins.plugin_utils import summary

# With this inventory `make` runs the commands.
_CHECKOUT = "inventories/local"
# Where `make logs` looks without being told.
_DIRECTORY = "/opt/campaign"
_ENCRYPTED = b"$ANSIBLE_VAULT;"


def shown(path: str) -> str:
    """Return a path as a person would type it here."""
    near = os.path.relpath(path)
    return path if near.startswith("..") else near


def vault_of(inventories: list[str]) -> str | None:
    """Return an inventory's vault file if it is where the playbook init_secrets writes it."""
    paths = (os.path.join(inventory if os.path.isdir(inventory) else os.path.dirname(inventory), "group_vars/campaign/vault.yml") for inventory in inventories)
    return next((path for path in paths if os.path.isfile(path)), None)


def is_encrypted(path: str) -> bool:
    """Return whether a file is one of Ansible's vault as a whole."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_ENCRYPTED)) == _ENCRYPTED
    except OSError:
        return False


def place_of(variables: Mapping[str, Any], *, is_local: bool, directory: str = _DIRECTORY) -> summary.Place:
    """Return where the deploy was started, and where it went to."""
    inventories = list(variables.get("ansible_inventory_sources") or [])
    host = str(variables.get("ansible_host") or variables["inventory_hostname"])
    user = variables.get("ansible_user")
    vault = vault_of(inventories)
    # Ansible reads the file whatever the playbook does with it.
    ask = "--ask-vault-pass " if vault and is_encrypted(vault) else ""
    playbook = "ansible-playbook " + "".join(f"-i {shown(path)} " for path in inventories) + ask
    commands = {
        "deploy": f"{playbook}campaign.platform.site",
        "rollback": f"{playbook}campaign.platform.rollback",
        "verify": f"{playbook}campaign.platform.verify -e stack_verify_depth=full",
        "down": f"{playbook}campaign.platform.down",
    }
    # Prod has no such file, and an empty path is none.
    kept = variables.get("stack_generated_secrets_file")
    file = shown(os.path.expanduser(str(kept))) if kept else ""
    password = {
        "env_local": "The password is OPERATOR_PASSWORD of .env.local.",
        "generated": f"The password is operator_password in {file}.",
        "aws": "The password is operator_password of the secret in AWS Secrets Manager.",
        "stack_secrets": "The password is operator_password of stack_secrets" + (f": ansible-vault view {shown(vault)}" if vault else "."),
    }
    if [shown(path) for path in inventories] == [_CHECKOUT]:
        commands = {name: f"make {name}" for name in [*commands, "logs"]}
        if directory != _DIRECTORY:
            commands["logs"] += f" STACK={directory}"
        password |= dict.fromkeys(["env_local", "generated"], "`make password` shows the password.")
    ssh = f"{machine.user()}@{socket.gethostname()}" if is_local else f"{user}@{host}" if user else host
    return summary.Place(host=socket.gethostname() if is_local else host, ssh=ssh, password=password, **commands)


class ActionModule(ActionBase):
    """See modules/summary.py."""

    _VALID_ARGS = frozenset(["staged", "results", "directory"])
    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the text as the message, which is shown."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        spec = {
            "staged": {"type": "dict", "required": True},
            "results": {"type": "list", "elements": "dict", "required": True},
            "directory": {"type": "path", "required": True},
        }
        _validation, arguments = self.validate_argument_spec(spec)
        variables = task_vars or {}
        is_local = self._templar.template(variables.get("ansible_connection", "")) == "local"
        names = ("ansible_inventory_sources", "ansible_host", "inventory_hostname", "ansible_user", "stack_generated_secrets_file")
        known = {name: self._templar.template(variables[name]) for name in names if name in variables}
        told = summary.lines(
            arguments["staged"],
            arguments["results"],
            place_of(known, is_local=is_local, directory=arguments["directory"]),
            directory=arguments["directory"],
            check_mode=self._task.check_mode,
        )
        return {**result, "changed": False, "msg": "\n".join(told), "_ansible_verbose_always": True}
