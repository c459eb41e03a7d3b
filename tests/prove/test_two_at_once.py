# SPDX-License-Identifier: GPL-3.0-or-later
"""Of two deploys at once one wins, and the other one says who holds the lock and changes nothing."""

import pytest

ROUNDS = 20
SAMPLE = 1


@pytest.fixture
def rounds(request) -> int:
    return ROUNDS if request.config.getoption("--full") else SAMPLE


def test_exactly_one_wins(stack, rounds):
    stack.deploy()
    for number in range(rounds):
        levels = [("debug", "warn"), ("error", "info")][number % 2]
        runs = [stack.start(stack_log_level=level) for level in levels]
        outputs = [" ".join(run.communicate(timeout=500)[0].split()) for run in runs]
        assert sorted(run.returncode for run in runs) == [0, 2], outputs
        won = next(level for level, run in zip(levels, runs, strict=True) if run.returncode == 0)
        lost = next(text for text, run in zip(outputs, runs, strict=True) if run.returncode == 2)
        assert "Another run works on this stack" in lost
        assert f"process {next(run.pid for run in runs if run.returncode == 0)}" in lost
        assert f"LOG_LEVEL={won}" in stack.containers()["api"]["Config"]["Env"]
