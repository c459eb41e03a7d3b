# SPDX-License-Identifier: GPL-3.0-or-later
"""Without systemd, an init script brings a release up again that was cut off. The machine of the tests has no systemd."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import DIRECTORY, PROJECT

SCRIPT = Path(f"/etc/init.d/docker-resume-{PROJECT}")
AGO = 100.0


@pytest.fixture
def cut_off(stack) -> str:
    """Leave the stack as a deploy does that ends with its machine: the new release's containers created and not started, and nobody left who works on it."""
    stack.deploy()
    current = stack.current()
    deploy = stack.start(stack_log_level="error")
    deadline = time.monotonic() + 60
    while not os.path.lexists(DIRECTORY / "attempted") and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(deploy.pid, signal.SIGKILL)
    deploy.communicate()
    # What it left at work on the host ends, as it would with the machine.
    subprocess.run(["flock", "--exclusive", "--timeout", "60", DIRECTORY / "client/running", "true"], check=True)
    there = stack.containers()
    stack.docker("rm", "--force", there["api"]["Id"], there["page"]["Id"])
    stack.docker("stop", there["postgres"]["Id"])
    os.utime(DIRECTORY / "lock.json", (time.time() - AGO,) * 2)
    return current


def serves(stack, visitor) -> bool:
    running = stack.running()
    return all(service in running for service in ("api", "page", "postgres")) and all(visitor.answers(path) for path in ("/", "/api/health/ready"))


def test_an_init_script_brings_the_release_up_again(stack, visitor, cut_off):
    assert list(Path("/etc").glob(f"rc[2-5].d/S[0-9][0-9]{SCRIPT.name}"))
    assert not serves(stack, visitor)
    began = time.monotonic()
    subprocess.run([SCRIPT, "start"], check=True, timeout=5)
    while not serves(stack, visitor):
        assert time.monotonic() - began < 60, (DIRECTORY / "client/resume.log").read_text()
        time.sleep(0.5)
    print(f"back after {time.monotonic() - began:.0f} s")
    while (last := stack.events()[-1])["event"] != "resumed":
        assert time.monotonic() - began < 60, last
        time.sleep(0.5)
    assert (last["release"], stack.current()) == (cut_off, cut_off)
    stack.deploy()
