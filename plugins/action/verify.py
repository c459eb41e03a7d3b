# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the module of the same name ask on the host, and compare here what came back in JSON."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import answers
from ansible_collections.campaign.platform.plugins.plugin_utils.inputs import ToldError


class ActionModule(ActionBase):
    """See modules/verify.py."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, in which the answers are judged."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        module = self._execute_module(module_name="campaign.platform.verify", module_args=dict(self._task.args), task_vars=task_vars or {})
        judged = answers.judged(module)
        # Ansible looks at failed_when and until only where nothing was raised.
        if judged.get("failed") and "failures" in judged and not (self._task.failed_when or self._task.until):
            raise ToldError(judged["msg"], result={**result, **{key: value for key, value in judged.items() if key not in ("exception", "failed", "msg")}})
        return {**result, **judged}
