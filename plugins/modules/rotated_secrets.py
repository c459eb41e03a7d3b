# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a virtual module that is entirely implemented as an action plugin and runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: rotated_secrets
short_description: Give secrets of a stack new values in the places where they come from
version_added: 0.4.0
description:
  - Writes a random value of 256 bits for each secret that is named, where its present value stands. That is a line of C(.env.local), the vault of the
    inventory, the secret of AWS Secrets Manager, or the file of the secrets that were generated. The deploy that follows puts the values in force.
  - Refuses, before anything is written, what a person has to give. For the role C(stack), whose variables it reads.
options:
  names:
    description: Names of secrets, or V(all).
    type: list
    elements: str
    required: true
  env_local:
    description: The file that C(stack_env_local) comes from.
    type: path
    required: true
  vault:
    description: The file with the secrets of the inventory, encrypted or not. It is encrypted again with the password that it was encrypted with.
    type: path
    required: true
  variable:
    description: Name of the variable in O(vault) that holds the mapping. C(stack_secrets) is looked for too.
    type: str
    default: vault_stack_secrets
  keep_sessions:
    description: Whether tokens that a replaced C(jwt_secret) signed are valid until they expire.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: Says what would get a new value, and writes nothing.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Give a password and what goes with it a new value
  campaign.platform.rotated_secrets:
    names: [redis_api_password]
    env_local: .env.local
    vault: inventories/prod/group_vars/campaign/vault.yml
"""

RETURN = r"""
names:
  description: Names of the secrets that have a new value.
  type: list
  elements: str
  returned: success
text:
  description: What a person has to know, line by line.
  type: list
  elements: str
  returned: success
vault:
  description: The file of the inventory that was changed.
  type: str
  returned: when one was
variable:
  description: The variable in it.
  type: str
  returned: when a file of the inventory was changed
vaulted:
  description: Names of the secrets with a new value in it.
  type: list
  elements: str
  returned: when a file of the inventory was changed
aws_version:
  description: The id of the version of the secret of AWS that was written, which a deploy of the same run reads.
  type: str
  returned: when a secret of AWS was changed
"""
