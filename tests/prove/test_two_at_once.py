# SPDX-License-Identifier: GPL-3.0-or-later
"""Of two deploys at once one wins, and the other one says who holds the lock and changes nothing."""

import os
import re
import signal
import time

import pytest

ROUNDS = 20
SAMPLE = 1
# How far a deploy has come when it falls asleep.
STEPS = ("attempted", "beside")
# Seconds from its start in which a deploy that is refused has to have said so, where all images are there.
REFUSED = 5.0


def pytest_generate_tests(metafunc) -> None:
    if "step" in metafunc.fixturenames:
        metafunc.parametrize("step", STEPS if metafunc.config.getoption("--full") else STEPS[-1:])


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


def test_a_deploy_that_comes_later_is_refused_soon(stack, rounds):
    """It is measured beside a deploy that is at work, from the start of the command to its end."""
    stack.deploy(stack_log_level="info")
    took = []
    for number in range(rounds):
        level = ("debug", "warn")[number % 2]
        first = stack.start(stack_log_level=level)
        # It goes on for some seconds more, in which it starts containers.
        _await((stack.directory / "attempted").is_symlink, first)
        before, began = len(stack.events()), time.monotonic()
        second = stack.play(stack_log_level="error")
        took.append(time.monotonic() - began)
        assert first.poll() is None, "the first one ended too soon for this to say anything"
        assert second.status == 2, second.text[-3000:]
        assert f"process {first.pid}" in second.text
        assert "Nothing was changed" in second.text
        assert len(stack.events()) == before
        output = " ".join(first.communicate(timeout=500)[0].split())
        assert first.returncode == 0, output[-3000:]
        assert f"LOG_LEVEL={level}" in stack.containers()["api"]["Config"]["Env"]
    print(f"{rounds} deploys were refused, within {max(took):.1f} s at most")
    # Beside a sample, other tests are at work on the same two processors.
    assert max(took) < (3 * REFUSED if rounds == SAMPLE else REFUSED)


def _await(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.stdout.read()[-4000:]
        time.sleep(0.02)


def every(stack) -> list[str]:
    """Return the ids of all containers, of which a service may have several."""
    return sorted(stack.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.directory.name}").split())


def test_who_slept_longer_than_the_lock_leaves_what_another_run_has_brought(stack, step):
    """A laptop that was shut in the middle of a deploy, which another one then ended."""
    stack.deploy(stack_log_level="info")
    asleep = stack.start(stack_log_level="debug")

    def is_there() -> bool:
        names = stack.docker("ps", "--format", "{{.Names}}").split()
        of_the_api = [name for name in names if re.fullmatch(rf"{stack.directory.name}-api-\d+", name)]
        return (stack.directory / "attempted").is_symlink() and len(of_the_api) == (1 if step == "attempted" else 2)

    try:
        _await(is_there, asleep)
        # What it has started goes on, and nobody is there to take what comes of it.
        os.kill(asleep.pid, signal.SIGSTOP)
        time.sleep(8)
        os.utime(stack.directory / "lock.json", (1, 1))
        stack.deploy(stack_log_level="error")
        before = (stack.current(), every(stack))
    finally:
        os.kill(asleep.pid, signal.SIGCONT)
    text = " ".join(asleep.communicate(timeout=500)[0].split())
    assert asleep.returncode == 2, text[-4000:]
    assert "lost the lock of the stack" in text
    assert "was started again" not in text
    assert (stack.current(), every(stack)) == before
    assert "LOG_LEVEL=error" in stack.containers()["api"]["Config"]["Env"]
    stack.deploy(stack_log_level="error")
    assert (stack.current(), every(stack)) == before
