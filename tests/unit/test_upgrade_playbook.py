# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade of PostgreSQL that failed says is what is the case: by how it was ended, not by what failed."""

import subprocess
from typing import Any

import pytest
import yaml

WAYS = {"upgrade": "Try the upgrade, and do it", "revert": "Go back to the data and the release from before the upgrade, where that is asked for"}
FAILS = {"ansible.builtin.fail": {"msg": "it failed"}}
UNREACHED = {"ansible.builtin.fail": {"msg": "this may not be reached"}}


def works(done: str = "") -> dict[str, Any]:
    return {"ansible.builtin.set_fact": {"upgrade_postgres_ended": done}}


def replayed(tasks: list[dict[str, Any]], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks with their roles in order replaced by steps, as many as there are: what comes after these is not to be reached."""
    found = []
    for task in tasks:
        if "ansible.builtin.import_role" in task:
            kept = {key: task[key] for key in ("name", "when") if key in task}
            found.append({**kept, **(steps.pop(0) if steps else UNREACHED)})
        elif "block" in task:
            found.append({**task, **{key: replayed(task[key], steps) for key in ("block", "rescue") if key in task}})
        elif any(name in task for name in ("ansible.builtin.fail", "ansible.builtin.debug", "ansible.builtin.meta")):
            found.append(task)
    return found


def play(root, tmp_path, way: str, steps: list[dict[str, Any]], **variables: Any) -> subprocess.CompletedProcess:
    *_others, whole = yaml.safe_load((root / "playbooks/upgrade_postgres.yml").read_text())
    (block,) = [task for task in whole["tasks"] if task["name"] == WAYS[way]]
    tasks = replayed([block], steps)
    given = {"upgrade_postgres_ended": "", "upgrade_postgres_is_needed": True, "upgrade_postgres_rehearsal_only": False, "revert": way == "revert"}
    content = [{"hosts": "localhost", "gather_facts": False, "vars": {**given, **variables}, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert steps == []
    return done


def messages(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stdout.splitlines() if '"msg":' in line or "msg:" in line]


# What comes before the data is touched.
FIRST = {"upgrade": [works()] * 5, "revert": [works(), works()]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([works(), FAILS, works(), works("{way} withdrawn")], "PostgreSQL was not {done}. What ran before runs"),
        ([works(), works(), FAILS, works("{settled}")], "PostgreSQL was {done} and the {release} is in use. A step after that failed: Move the data of the"),
        ([works(), works(), FAILS, FAILS], "The {name} is not ended. Deploys are refused until this playbook is run again"),
    ],
)
def test_what_is_said_is_how_it_ended(root, tmp_path, way, steps, expected):
    words = {
        "upgrade": ("upgraded", "new release", "upgrade", "settled"),
        "revert": ("brought back", "release from before", "way back", "revert settled"),
    }[way]
    named = dict(zip(("done", "release", "name", "settled"), words, strict=True))
    filled = yaml.safe_load(yaml.safe_dump(steps).replace("{way}", way).replace("{settled}", named["settled"]))
    done = play(root, tmp_path, way, [*FIRST[way], *filled])
    assert done.returncode == 2, done.stdout
    assert expected.format(**named) in messages(done)[-1]


@pytest.mark.parametrize(
    ("way", "ended", "expected"),
    [
        ("revert", "upgrade withdrawn", "The upgrade of an earlier run was undone: what ran before runs. Nothing else is done."),
        # Once more would go forward again, to the data that was gone back from.
        ("revert", "revert settled", "The way back of an earlier run was done, and counts now: the release from before is in use. Nothing else is done."),
        ("upgrade", "revert settled", "The way back of an earlier run was done, and counts now: the release from before is in use. Nothing was upgraded."),
    ],
)
def test_what_an_earlier_run_began_may_be_all_that_is_ended(root, tmp_path, way, ended, expected):
    done = play(root, tmp_path, way, [*FIRST[way][:-1], works(ended)])
    assert done.returncode == 0, done.stdout
    assert expected in messages(done)[-1]
    assert "may not be reached" not in done.stdout


@pytest.mark.parametrize(("way", "ended"), [("revert", "settled"), ("revert", "revert withdrawn"), ("upgrade", "settled"), ("upgrade", "revert withdrawn")])
def test_after_another_end_what_is_asked_for_is_done(root, tmp_path, way, ended):
    done = play(root, tmp_path, way, [*FIRST[way][:-1], works(ended), works(ended), works(ended), works("settled")])
    assert done.returncode == 0, done.stdout
    assert "may not be reached" not in done.stdout
    assert "Nothing" not in done.stdout


def test_nothing_is_tried_where_a_way_back_was_ended(root):
    tasks = yaml.safe_load((root / "roles/upgrade_postgres/tasks/apply.yml").read_text())
    assert [task.get("when") for task in tasks] == [None, "upgrade_postgres_ended != 'revert settled'"]
