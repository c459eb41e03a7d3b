# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the status that the module of the same name gathers into words, write it to files of the controller, and answer a question about it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.campaign.platform.plugins.plugin_utils import holder, status
from ansible_collections.campaign.platform.plugins.plugin_utils.inputs import RefusedError


def place_of(path: str, variables: Mapping[str, Any], name: str) -> str:
    """Return a path of the controller as a person who typed it means it. Raises RefusedError where it cannot be written to."""
    place = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(os.path.dirname(place)) or os.path.isdir(place):
        raise RefusedError(f"{name}: {place} cannot be written: its directory must be there, and it must not be one itself.")
    hosts = variables.get("ansible_play_hosts_all") or []
    if len(hosts) > 1 and str(variables["inventory_hostname"]) not in place:
        raise RefusedError(f"{name}: {len(hosts)} hosts would write {place}. Name each host's file after it: FILE-{{{{ inventory_hostname }}}}.")
    return place


def write(place: str, text: str) -> None:
    """Write a file whole. A new one can be read by its owner only; one that is there keeps its mode."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(place), prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(place, temporary)
        os.replace(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise


class ActionModule(ActionBase):
    """See modules/status.py."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, and the text."""
        try:
            return self._run(tmp, task_vars)
        except status.QueryError as error:
            raise RefusedError(f"The query {error}") from error

    def _run(self, tmp: str | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = {name: value for name, value in self._task.args.items() if value not in (None, "")}
        places = {name: place_of(str(arguments[name]), variables, name) for name in ("json", "page") if name in arguments}
        ask = status.question(str(arguments["query"])) if "query" in arguments else None
        module: dict[str, Any] = self._execute_module(module_name="campaign.platform.status", module_args=arguments, task_vars=variables)
        if module.get("failed"):
            return {**result, **module}
        # As plain data, which JMESPath asks for the type of.
        found = holder.looked_at(json.loads(json.dumps(module["status"])))
        texts = {"json": json.dumps(found, indent=1, ensure_ascii=False) + "\n", "page": status.page(found)}
        told = status.lines(found)
        answered = {}
        if ask:
            answered["answer"] = ask(found)
            told = json.dumps(answered["answer"], indent=1, ensure_ascii=False).splitlines()
        for name, place in places.items():
            if not self._task.check_mode:
                try:
                    write(place, texts[name])
                except OSError as error:
                    raise RefusedError(f"{name}: {place} cannot be written: {error.strerror}.") from error
        changed = bool(places) and not self._task.check_mode
        return {**result, **module, **answered, "changed": changed, "text": "\n".join(told)}
