# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade of PostgreSQL that failed says is what is the case: by how it was ended, not by what failed."""

import subprocess
from typing import Any

import pytest
import yaml

WAYS = {"upgrade": "Try the upgrade, and do it", "revert": "Go back to the data and the release from before the upgrade, where that is asked for"}
FAILS = {"ansible.builtin.fail": {"msg": "it failed"}}


def works(done: str = "") -> dict[str, Any]:
    return {"ansible.builtin.set_fact": {"upgrade_postgres_ended": done}}


def replayed(tasks: list[dict[str, Any]], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks with their roles in order replaced by steps; what would run without any condition is left of them."""
    found = []
    for task in tasks:
        if "ansible.builtin.import_role" in task:
            found.append({"name": task["name"], **steps.pop(0)})
        elif "block" in task:
            found.append({**task, **{key: replayed(task[key], steps) for key in ("block", "rescue") if key in task}})
        elif "ansible.builtin.fail" in task:
            found.append(task)
    return found


def said(root, tmp_path, way: str, steps: list[dict[str, Any]]) -> str:
    *_others, play = yaml.safe_load((root / "playbooks/upgrade_postgres.yml").read_text())
    (whole,) = [task for task in play["tasks"] if task["name"] == WAYS[way]]
    block = whole["block"][-1]
    del block["when"]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": replayed([block], steps)}]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert steps == []
    return [line for line in done.stdout.splitlines() if '"msg":' in line or "msg:" in line][-1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([works(), FAILS, works(), works("{way} withdrawn")], "PostgreSQL was not {done}. What ran before runs"),
        ([works(), works(), FAILS, works("settled")], "PostgreSQL was {done} and the {release} is in use. A step after that failed: Move the data of the"),
        ([works(), works(), FAILS, FAILS], "The {name} is not ended. Deploys are refused until this playbook is run again"),
    ],
)
def test_what_is_said_is_how_it_ended(root, tmp_path, way, steps, expected):
    words = {"upgrade": ("upgraded", "new release", "upgrade"), "revert": ("brought back", "release from before", "way back")}[way]
    named = dict(zip(("done", "release", "name"), words, strict=True))
    filled = yaml.safe_load(yaml.safe_dump(steps).replace("{way}", way))
    assert expected.format(**named) in said(root, tmp_path, way, filled)
