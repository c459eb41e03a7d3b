# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a release on the controller, and have the module of the same name write it on the host."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import answers, holder, inputs, release
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import TextError


class ActionModule(ActionBase):
    """See modules/release.py."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        staged = arguments.get("state", "staged") == "staged"
        if staged and (problems := inputs.kept_files_problems()):
            return {**result, "failed": True, "msg": inputs.told(problems)}
        if staged and "plan" not in arguments:
            declared, renderer, problems = inputs.declaration_of(variables, self._templar, self._loader, check_mode=self._task.check_mode)
            if declared is None or problems:
                raise inputs.RefusedError(inputs.told(problems))
            arguments["compose_version"] = ((variables.get("ansible_facts") or {}).get("campaign_host") or {}).get("compose")
            try:
                arguments["plan"] = release.build(declared, renderer, arguments.pop("images"))
            except TextError as error:
                raise inputs.RefusedError(inputs.told([str(error)])) from error
        arguments["holder"] = holder.of_this_run(variables)
        module = self._module(arguments, variables)
        # Its own machine alone can know that a run was killed, and need not wait until its lock ends by itself.
        if (other := module.get("locked_by")) and holder.has_ended(other):
            module = self._module({**arguments, "ended_run": other["run"]}, variables)
        return {**result, **answers.verified(module)}

    def _module(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        module: dict[str, Any] = self._execute_module(module_name="campaign.platform.release", module_args=arguments, task_vars=variables)
        return module
