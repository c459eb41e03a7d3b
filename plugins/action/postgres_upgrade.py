# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the module of the same name work on the host, for the run of this playbook: what it begins, only this run may go on with."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import holder


class ActionModule(ActionBase):
    """See modules/postgres_upgrade.py."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = {**self._task.args, "holder": holder.of_this_run(variables)}
        module = self._execute_module(module_name="campaign.platform.postgres_upgrade", module_args=arguments, task_vars=variables)
        return {**result, **module}
