# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge the status that the module status gathers."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import doctor, holder
from ansible_collections.campaign.platform.plugins.plugin_utils.inputs import RefusedError, ToldError
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import did_you_mean

LIMITS = {field.name: field.type for field in dataclasses.fields(doctor.Limits)}


def skew_of(at: str, before: float, after: float) -> float:
    """Return by how many seconds a time that a host told is outside of those between which it was asked."""
    told = datetime.datetime.fromisoformat(at).timestamp()
    # The host tells whole seconds.
    return told - after if told > after else min(told + 1 - before, 0.0)


class ActionModule(ActionBase):
    """See modules/doctor.py."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the findings, and the text."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        pair = {"type": "list", "elements": "int"}
        spec = {
            "directory": {"type": "path", "required": True},
            "skip": {"type": "list", "elements": "str", "default": []},
            "socket": {"type": "path"},
            "strict": {"type": "bool", "default": False},
            **{name: {"type": "int"} if name == "clock" else pair for name in LIMITS},
        }
        _validation, arguments = self.validate_argument_spec(spec)
        skip = arguments["skip"]
        for name in skip:
            if name not in doctor.CHECKS:
                raise RefusedError(f"There is no check {name}. {did_you_mean(name, set(doctor.CHECKS))} Checks are {', '.join(doctor.CHECKS)}.")
        limits = doctor.Limits(**{name: arguments[name] for name in LIMITS if arguments[name] is not None})
        try:
            doctor.check_limits(limits)
        except doctor.LimitsError as error:
            raise RefusedError(str(error)) from error
        asked = {name: arguments[name] for name in ("directory", "socket") if arguments[name]}
        before = time.time()
        module: dict[str, Any] = self._execute_module(module_name="campaign.platform.status", module_args=asked, task_vars=task_vars or {})
        if module.get("failed"):
            return {**result, **module}
        found = holder.looked_at(json.loads(json.dumps(module["status"])))
        case = doctor.Case(found, limits, skew_of(found["at"], before, time.time()))
        findings = doctor.diagnose(case, skip)
        failures = sum(finding.severity == doctor.FAILURE for finding in findings)
        listed = [dataclasses.asdict(finding) for finding in findings]
        text = "\n".join(doctor.lines(case, findings, skip))
        if failures and arguments["strict"]:
            raise ToldError(text, result={**result, "changed": False, "failures": failures})
        return {**result, "changed": False, "failures": failures, "findings": listed, "status": found, "text": text}
