# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each role's validation looks at beside its arguments, and what it says to the steps after it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible.template import Templar

from ansible_collections.campaign.platform.plugins.plugin_utils import inputs, release
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer

Declared = tuple[dict[str, Any], list[str]]


def _stack(variables: Mapping[str, Any], templar: Templar, loader: Any, *, check_mode: bool, with_secrets: bool) -> Declared:
    """Return images and ports of the release that the inputs ask for."""
    # Nothing is generated here, because nothing is changed before all inputs of all roles are known to be right.
    declared, renderer, problems = inputs.declaration_of(variables, templar, loader, check_mode=True, with_secrets=with_secrets)
    if declared is None or problems:
        return {}, problems
    return release.summary(declared, renderer)


def requirement_problems(rows: Any, renderer: AnsibleRenderer, names: Mapping[str, Any]) -> list[str]:
    """Return the messages of the rules between variables that do not hold. A row that holds does not render its message."""
    return [str(renderer.render(row["message"], names)) for row in rows if not renderer.holds(row["that"], names)]


def _by_rules(variables: Mapping[str, Any], templar: Templar, _loader: Any, **_options: bool) -> Declared:
    """Check a role that has argument rules and requirements, and nothing else."""
    role_path = variables["role_path"]
    role = os.path.basename(role_path)
    renderer = AnsibleRenderer(templar, variables, role_path)
    rules = renderer.render(variables.get(f"__{role}_rules", {}), {})
    checked = inputs.arguments_of(role_path, variables, renderer, rules)
    if checked.problems:
        return {}, checked.problems
    return {}, requirement_problems(variables.get(f"__{role}_requirements", []), renderer, checked.values)


_ROLES = {"stack": _stack}


def declare(variables: Mapping[str, Any], templar: Templar, loader: Any, *, check_mode: bool, with_secrets: bool) -> Declared:
    """Return what the role of the task declares, and a message for everything that is wrong with its inputs."""
    role = os.path.basename(variables["role_path"])
    return _ROLES.get(role, _by_rules)(variables, templar, loader, check_mode=check_mode, with_secrets=with_secrets)
