# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a role's arguments before anything is touched."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import inputs, roles


class ActionModule(ActionBase):
    """See modules/validate.py."""

    _VALID_ARGS = frozenset(["secrets"])
    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what is declared, or fail with all problems at once."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec({"secrets": {"type": "bool", "default": True}})
        variables = task_vars or {}
        declared, problems = roles.declare(
            variables, self._templar, self._loader, check_mode=self._task.check_mode, with_secrets=arguments["secrets"]
        )
        if problems:
            return {**result, "failed": True, "msg": inputs.told(problems)}
        return {**result, "changed": False, "msg": "Nothing is wrong.", **declared}
