# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a virtual module that is entirely implemented as an action plugin and runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: vaulted_secrets
short_description: Write a vault file with a strong value for every secret that a stack needs
version_added: 0.3.0
description:
  - Generates a random value of 256 bits for every secret of the service catalogue, those of C(stack_services) included, and writes them as one YAML mapping,
    encrypted with the vault password that C(ansible-playbook) was given. The values exist in the memory of one process only.
  - Never changes a file that is there. For the role C(stack), whose variables it reads.
options:
  path:
    description: The file, in a directory of the controller that is there.
    type: path
    required: true
  variable:
    description: Name of the variable that holds the mapping.
    type: str
    default: vault_stack_secrets
  others:
    description: Names of other variables that get a value of their own beside the mapping, such as the password of the backups.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Says whether it would write, and writes nothing.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Write a vault file
  campaign.platform.vaulted_secrets:
    path: inventories/prod/group_vars/campaign/vault.yml
    others: [vault_backup_password]
"""

RETURN = r"""
names:
  description: Names of the secrets that were generated.
  type: list
  elements: str
  returned: success
"""
