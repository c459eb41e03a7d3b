# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what became of every host: one JSON object a line."""

import json
import os

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: outcomes
type: aggregate
short_description: Write the outcome of every task as a line of JSON
description: For the tests of bad input.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "outcomes"

    def _write(self, result, outcome):
        line = {"host": result.host.get_name(), "task": result.task.get_name(), "action": result.task.action, "outcome": outcome}
        line["message"] = str(result.result.get("msg", ""))
        with open(os.environ["OUTCOMES"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def v2_runner_on_ok(self, result):
        self._write(result, "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._write(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result):
        self._write(result, "unreachable")
