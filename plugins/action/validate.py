# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a role's arguments before anything is touched."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import inputs, roles


class ActionModule(ActionBase):
    """See modules/validate.py."""

    _VALID_ARGS = frozenset(["secrets", "requirements", "header"])
    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what is declared, or fail with all problems at once."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        spec = {
            "secrets": {"type": "bool", "default": True},
            "requirements": {"type": "list", "elements": "str"},
            "header": {"type": "str", "default": inputs.HEADER},
        }
        _validation, arguments = self.validate_argument_spec(spec)
        variables = task_vars or {}
        if arguments["requirements"]:
            declared, problems = roles.look(variables, self._templar, arguments["requirements"])
        else:
            declared, problems = roles.declare(variables, self._templar, self._loader, with_secrets=arguments["secrets"])
        if problems:
            raise inputs.RefusedError(inputs.told(problems, arguments["header"]))
        return {**result, "changed": False, "msg": "Nothing is wrong.", **declared}
