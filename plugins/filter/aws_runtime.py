# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let services fetch their secrets from AWS themselves."""

from __future__ import annotations

DOCUMENTATION = r"""
name: aws_runtime
short_description: Make the entry of the service catalogue through which services fetch their secrets from AWS Secrets Manager
version_added: 0.2.0
description:
  - For every service named, the entry takes the secret files away, adds the environment that the services' loader understands, and joins
    a network with a way out. Other services do not join it.
  - The entry comes after those of the services, so that its list of secret files wins.
options:
  _input:
    description: Names of services to the name or ARN of the secret that each reads.
    type: dict
    required: true
  region:
    description: Region of the secrets.
    type: str
    default: ""
  endpoint_url:
    description: Address to ask instead of AWS's own.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show what the api gets
  ansible.builtin.debug:
    msg: "{{ {'api': 'campaign/api'} | campaign.platform.aws_runtime(region='eu-central-1') }}"
"""

RETURN = r"""
_value:
  description: An entry of the catalogue, with C(name), C(secrets) and C(base).
  type: dict
"""

NETWORK = "egress-network"


def aws_runtime(secret_ids, region: str = "", endpoint_url: str = "") -> dict:
    """Return the entry; see DOCUMENTATION."""
    if not secret_ids:
        return {"name": "aws-runtime", "secrets": {}, "base": {}}
    shared = {"AWS_REGION": str(region)} | ({"AWS_ENDPOINT_URL_SECRETS_MANAGER": str(endpoint_url)} if endpoint_url else {})
    services = {
        str(name): {"environment": {"AWS_SECRETS_MANAGER_SECRET_ID": str(secret_id), **shared}, "networks": [NETWORK]} for name, secret_id in secret_ids.items()
    }
    return {"name": "aws-runtime", "secrets": {name: {} for name in services}, "base": {"services": services, "networks": {NETWORK: {}}}}


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"aws_runtime": aws_runtime}
