# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the module of the same name work on the host, for the run of this playbook: what it begins, only this run may go on with."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.campaign.platform.plugins.plugin_utils import holder

REMOVAL = "upgrade_postgres_old_volumes"
TYPED = f"-e {REMOVAL}=remove where the old data is to go."


class ActionModule(ActionBase):
    """See modules/postgres_upgrade.py."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        if self._task.args.get("state") == "removed" and REMOVAL not in load_extra_vars(self._loader):
            # As a setting that stays, it would remove each way back at the next run, instead of what that was for.
            return {**result, "failed": True, "msg": f"Nothing was removed. {REMOVAL}: remove is for one run, so take it out of the inventory and say {TYPED}"}
        arguments = {**self._task.args, "holder": holder.of_this_run(variables)}
        module = self._execute_module(module_name="campaign.platform.postgres_upgrade", module_args=arguments, task_vars=variables)
        return {**result, **module}
