# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate secrets and return them encrypted."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vaulted_secrets
short_description: Generate named secrets and return them as the text of a file encrypted with Ansible Vault
version_added: 0.2.0
description:
  - Makes up a random value for every name and returns one YAML mapping of them, encrypted with the vault password that
    C(ansible-playbook) was given. The values themselves leave this plugin only encrypted.
  - Every evaluation makes up new values.
options:
  _terms:
    description: The names wanted.
    required: true
    type: list
    elements: str
  variable:
    description: Name of the variable that holds the mapping.
    required: true
    type: str
"""

EXAMPLES = r"""
- name: Write a vault file
  ansible.builtin.copy:
    dest: group_vars/all/vault.yml
    content: "{{ lookup('campaign.platform.vaulted_secrets', 'database', 'queue', variable='vault_passwords') }}"
    mode: "0600"
"""

RETURN = r"""
_list:
  description: The encrypted text. Each value is 43 characters of A-Z, a-z, 0-9, C(-) and C(_) (256 bits).
  type: list
  elements: str
"""

import json
import secrets

from ansible import constants
from ansible.errors import AnsibleLookupError
from ansible.parsing.vault import VaultLib, VaultSecretsContext, match_encrypt_secret
from ansible.plugins.lookup import LookupBase


def encrypted(names, variable: str, vault_secrets, identity: str | None) -> str:
    """Return the encrypted text; see DOCUMENTATION."""
    if not vault_secrets:
        raise AnsibleLookupError(
            "There is no vault password to encrypt with, and nothing was written. Give one: --ask-vault-pass, --vault-password-file or --vault-id."
        )
    vault_id, secret = match_encrypt_secret(vault_secrets, encrypt_vault_id=identity)
    # JSON strings are YAML's double-quoted strings.
    text = f"---\n{variable}:\n" + "".join(f"  {name}: {json.dumps(secrets.token_urlsafe(32))}\n" for name in names)
    return VaultLib(vault_secrets).encrypt(text, secret=secret, vault_id=None if vault_id == "default" else vault_id).decode()


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        context = VaultSecretsContext.current(optional=True)
        identity = constants.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY")
        return [encrypted([str(term) for term in terms], self.get_option("variable"), context.secrets if context else [], identity)]
