# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check predicts is what the deploy does, and a second deploy does nothing."""

import re
from typing import Any

import pytest

EDITS = 30
SAMPLE = 1
ACTIONS = {"created": "create", "recreated": "recreate", "started": "start", "removed": "remove", "replaced": "recreate"}


def edits(chance, number: int) -> tuple[str, dict[str, Any], list[list[str]]]:
    """Return one edit: its name, the variables, and what is done by hand with Docker before."""
    return chance.choice(
        [
            (f"setting {number}", {"stack_log_level": chance.choice(["debug", "warn", "error"])}, []),
            (f"tick {number}", {"stack_scheduler_tick_seconds": chance.randint(2, 50)}, []),
            (f"environment {number}", {"stack_services": {"api": {"base": {"services": {"api": {"environment": {"EXTRA": str(number)}}}}}}}, []),
            (f"label {number}", {"stack_services": {"frontend": {"base": {"services": {"frontend": {"labels": {"edit": str(number)}}}}}}}, []),
            (f"secret {number}", {"stack_secrets": {"redis_scheduler_password": f"edit-{number}-of-a-password"}}, []),
            (f"limit {number}", {"stack_services": {"redis": {"base": {"services": {"redis": {"labels": {"edit": str(number)}}}}}}}, []),
            (f"stopped {number}", {}, [["stop", "--time", "5", "scheduler"]]),
            (f"removed {number}", {}, [["rm", "--force", "rules-engine"]]),
        ]
    )


@pytest.fixture
def count(request) -> int:
    return EDITS if request.config.getoption("--full") else SAMPLE


def test_what_is_predicted_is_what_happens(stack, chance, count):
    variables: dict[str, Any] = {}
    stack.deploy()
    for number in range(count):
        name, changed, by_hand = edits(chance, number)
        variables = {**variables, **changed}
        for command in by_hand:
            # The last word is a service. Its container has another name after each replacement.
            stack.docker(*command[:-1], stack.running()[command[-1]])
        before = stack.running()
        files = sorted(stack.directory.rglob("*"))
        checked = stack.check(**variables)
        assert checked.status == 0, checked.text[-3000:]
        assert sorted(stack.directory.rglob("*")) == files
        assert stack.running() == before
        predicted = {service: ACTIONS[done] for service, done in re.findall(rf"^ +([a-z-]+) +({'|'.join(ACTIONS)})[a-z0-9, ]*: ", checked.text, re.MULTILINE)}
        stack.deploy(**variables)
        after = stack.running()
        actual = {service for service in before.keys() | after.keys() if before.get(service) != after.get(service)}
        print(f"{name}: {predicted or 'nothing'}")
        assert set(predicted) == actual, (name, predicted, actual, checked.text[-2000:])
        again = stack.play(**variables)
        assert "changed=0" in again.text.rpartition("this_machine")[2], again.text[-2000:]
