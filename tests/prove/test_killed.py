# SPDX-License-Identifier: GPL-3.0-or-later
"""A deploy or a rollback that is killed leaves nothing that the next one does not put right, and loses nothing that is stored."""

import os
import signal
import time

import pytest

MOMENTS = 60
SAMPLE = 3
# A deploy that changes something takes about this long, in seconds; a killed one has got anywhere in it.
LONGEST = 20.0


@pytest.fixture
def moments(request) -> int:
    return MOMENTS if request.config.getoption("--full") else SAMPLE


def killed(stack, seconds: float, playbook: str, **variables) -> bool:
    """Start a playbook and kill it with all that it started on the controller; return whether it was still at work."""
    process = stack.start(playbook, **variables)
    time.sleep(seconds)
    was_running = process.poll() is None
    if was_running:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return was_running


def test_one_run_more_puts_it_right(stack, chance, moments):
    stack.deploy()
    stack.sql("CREATE TABLE IF NOT EXISTS public.ledger (n int)")
    hits = 0
    for number in range(moments):
        stack.sql(f"INSERT INTO public.ledger VALUES ({number})")
        level = ("debug", "warn", "error")[number % 3]
        playbook = "rollback" if number % 4 == 3 else "site"
        hits += killed(stack, chance.uniform(0.5, LONGEST), playbook, **({} if playbook == "rollback" else {"stack_log_level": level}))
        result = stack.play(stack_log_level=level)
        assert result.status == 0, f"moment {number}: {result.text[-3000:]}"
        assert f"LOG_LEVEL={level}" in stack.containers()["api"]["Config"]["Env"]
        # `kill -9` of Compose may leave a container under a name that it had for a moment.
        for container in stack.containers().values():
            assert container["Name"].startswith("/campaign-prove-"), container["Name"]
        assert stack.sql("SELECT count(*) FROM public.ledger") == str(number + 1)
        assert stack.check(stack_log_level=level).text.count("A deploy would change no container.") == 1
    stack.sql("DROP TABLE public.ledger")
    print(f"{moments} moments, of which {hits} hit a run at work")
    assert hits > 0
