# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role stack makes of values, asked by calling it: a run of ansible-playbook for each of thousands of values would take hours."""

from typing import Any

from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.plugin_utils import declaration, inputs, release
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer
from program import LOADER, ROLE, role_variables, tables

TABLES = tables()
SETTINGS = dict(TABLES.settings) | {name: row for entry in TABLES.services.values() for name, row in (entry.get("settings") or {}).items()}
SECRETS = declaration.known_secrets(TABLES, TABLES.services)


def declare(**given: Any) -> tuple[declaration.Declaration, AnsibleRenderer]:
    """Return what the variables declare in local, with its problems, and what renders it. The values are texts and not templates."""
    variables = {**role_variables(), "role_path": str(ROLE), "stack_variant": "local", **given}
    declared, renderer, problems = inputs.declaration_of(variables, Templar(loader=LOADER, variables=variables), LOADER, check_mode=True)
    assert declared is not None, problems
    return declared, renderer


def render(**given: Any) -> release.Rendered:
    """Return the rendered catalogue of the variables, in which nothing is wrong."""
    declared, renderer = declare(**given)
    assert declared.problems == []
    return release.render(declared, renderer, release.image_names(declared))
