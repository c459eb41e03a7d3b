# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a vault file with a strong value for every secret that a stack needs."""

from __future__ import annotations

import json
import os
import secrets
from typing import Any

from ansible import constants
from ansible.parsing.vault import VaultLib, VaultSecretsContext, match_encrypt_secret
from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import declaration, inputs

_OPTIONS = "--ask-vault-pass, --vault-password-file or --vault-id"


def encrypted(names: list[str], variable: str, others: list[str], vault_secrets: list[tuple[str, Any]], identity: str | None) -> str:
    """Return the YAML of a mapping of names to random values of 256 bits and of other variables with such a value each, encrypted.

    Raises RefusedError without a password, or with several to choose from.
    """
    if not vault_secrets:
        raise inputs.RefusedError(f"There is no vault password to encrypt with, and nothing was written. Give one: {_OPTIONS}.")
    known = sorted({vault_id for vault_id, _secret in vault_secrets})
    if len(known) > 1 and not identity:
        raise inputs.RefusedError(
            f"There are several vault passwords ({', '.join(known)}), and nothing was written. "
            "Name the one to encrypt with: ANSIBLE_VAULT_ENCRYPT_IDENTITY, or vault_encrypt_identity in ansible.cfg."
        )
    vault_id, secret = match_encrypt_secret(vault_secrets, encrypt_vault_id=identity)
    # As while a vault is rekeyed, or where a configuration names one file and the command line another. No name says which.
    if len({other.bytes for known_id, other in vault_secrets if known_id == vault_id}) > 1:
        raise inputs.RefusedError(f"There are several vault passwords named {vault_id}, and nothing was written. Give the one to encrypt with, and no other.")
    # JSON strings are YAML's double-quoted strings.
    rows = [*(f"  {name}" for name in names), *others]
    text = f"---\n{variable}:\n" + "".join(f"{row}: {json.dumps(secrets.token_urlsafe(32))}\n" for row in rows)
    vault: bytes = VaultLib(vault_secrets).encrypt(text, secret=secret, vault_id=None if vault_id == "default" else vault_id)
    return vault.decode()


def write_new(path: str, text: str) -> None:
    """Write a file that is not there yet, whole, with mode 0600."""
    temporary = f"{path}.new-{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename this fails where somebody was quicker.
        os.link(temporary, path)
    finally:
        os.unlink(temporary)


class ActionModule(ActionBase):
    """See modules/vaulted_secrets.py."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the file, or say why not."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        spec = {
            "path": {"type": "path", "required": True},
            "variable": {"type": "str", "default": "vault_stack_secrets"},
            "others": {"type": "list", "elements": "str", "default": []},
        }
        _validation, arguments = self.validate_argument_spec(spec)
        path, variables = arguments["path"], task_vars or {}
        if os.path.lexists(path):
            raise inputs.RefusedError(
                f"{path} is there already and was left as it is. Change it with `ansible-vault edit`, name another file in stack_vault_file, or move it away. "
                "The data of a stack that runs is locked with the values of its own file."
            )
        if not os.path.isdir(os.path.dirname(path)):
            raise inputs.RefusedError(f"{os.path.dirname(path)} is not a directory. Create it, or name another file in stack_vault_file.")
        tables = declaration.tables(variables)
        catalogue, problems = declaration.combined(tables, variables.get("stack_services", {}))
        if problems:
            raise inputs.RefusedError(inputs.told(problems))
        names = declaration.known_secrets(tables, catalogue).generated
        context = VaultSecretsContext.current(optional=True)
        identity = constants.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY")
        text = encrypted(names, arguments["variable"], arguments["others"], list(context.secrets) if context else [], identity)
        if not self._task.check_mode:
            write_new(path, text)
        return {**result, "changed": True, "path": path, "names": names}
