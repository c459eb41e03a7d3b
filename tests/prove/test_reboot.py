# SPDX-License-Identifier: GPL-3.0-or-later
"""After a reboot, a crash of the machine and the end of the Engine all services are back within a minute, without a person, also where a deploy was cut off."""

import subprocess
import time
from collections.abc import Iterator

import machine as machines
import pytest
from ledger import NOTHING, Ledger

MOMENTS = 20
SAMPLE = 1
# Events after which another one is to come: that the lock was taken over, and that a release is being started.
UNDER_WAY = ("aborted", "started")
LEVELS = ("debug", "warn", "error")


def pytest_generate_tests(metafunc) -> None:
    if "what" in metafunc.fixturenames:
        metafunc.parametrize("what", ["machine", "engine"] if metafunc.config.getoption("--full") else ["machine"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Iterator[machines.Machine]:
    machines.remove()
    found = machines.Machine(tmp_path_factory.mktemp("reboot"))
    try:
        found.create()
        found.deploy()
        yield found
    finally:
        machines.remove()


@pytest.fixture
def moments(request) -> int:
    return MOMENTS if request.config.getoption("--full") else SAMPLE


def test_a_reboot_brings_everything_back_but_what_was_stopped_on_purpose(machine):
    assert machine.docker_host("systemctl", "is-enabled", machines.UNIT) == "enabled"
    machine.docker("stop", f"{machines.PROJECT}-page-1")
    machine.reboot()

    def all_but_the_page() -> bool:
        ill = machine.ill()
        return len(ill) == 1 and ill[0].startswith(f"{machines.PROJECT}-page-1 Exited")

    took = machine.wait_for("every service but the page", all_but_the_page)
    print(f"back {took:.0f} s after a reboot")
    machine.docker("start", f"{machines.PROJECT}-page-1")
    machine.wait_for("the page", machine.serves)


def test_the_rules_of_the_firewall_are_there_before_the_engine_is(machine):
    """Its unit is another one than the one above, and the Engine does not start without it."""
    unit = f"docker-firewall-{machines.PROJECT}.service"

    def rules() -> list[str]:
        return [line for line in machine.docker_host("iptables", "--list-rules").splitlines() if "192.0.2.0/24" in line]

    machine.deploy(docker_host_firewall_allowed_sources=["192.0.2.0/24"])
    before = rules()
    assert before
    machine.reboot()
    machine.wait_for("everything", machine.serves)
    assert rules() == before
    times = [int(machine.docker_host("systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic", name)) for name in (unit, "docker.service")]
    assert 0 < times[0] < times[1]
    # What nobody asks for any more goes, and the Engine starts without it.
    machine.deploy()
    assert rules() == []
    assert machine.inside("systemctl", "is-enabled", unit).returncode != 0
    machine.reboot()
    machine.wait_for("everything", machine.serves)
    assert rules() == []


def since(machine, count: int) -> list[str]:
    """Return the events of the stack but for the first ones."""
    return [line["event"] for line in machine.events()[count:]]


def test_a_deploy_that_is_cut_off_leaves_a_release_that_serves(machine, chance, moments, what):
    longest, resumed = 0.0, 0
    machine.deploy(stack_log_level=LEVELS[-1])
    ledger = Ledger(machine)
    for number in range(moments):
        level = LEVELS[number % len(LEVELS)]
        events = len(machine.events())
        deploy = machine.start(stack_log_level=level)
        machine.wait_for("the start of a release", lambda count=events: since(machine, count) == ["started"], seconds=300)
        # From there on it changes something, for about as long as the first deploy did.
        moment = chance.uniform(0, machine.seconds())
        with ledger:
            time.sleep(moment)
            if what == "machine":
                # A controller elsewhere loses its connection, and does not come back by itself. Its tasks are processes of their own, and would.
                subprocess.run(["pkill", "-KILL", "--parent", str(deploy.pid)], check=False)
                deploy.kill()
                machine.reboot(crash=True)
            else:
                machine.kill_engine()
            deploy.communicate(timeout=300)
        longest = max(longest, machine.wait_for(f"a release, cut off after {moment:.1f} s", machine.serves))
        if what == "machine" and "succeeded" not in since(machine, events):
            # What the Engine started by itself may serve before what starts the release again has seen that it does.
            machine.wait_for("the end of what starts it again", lambda count=events: {"resumed", "not_resumed"} & {*since(machine, count)})
        told = since(machine, events)
        resumed += "resumed" in told
        print(f"{what} after {moment:.1f} s: {' '.join(told)}")
        api = machine.containers()["api"]
        assert f"/releases/{machine.current()}/" in api["Config"]["Labels"]["com.docker.compose.project.config_files"]
        for container in machine.containers().values():
            assert container["Name"].startswith(f"/{machines.PROJECT}-"), container["Name"]
        assert ledger.lost() == NOTHING
        machine.deploy(stack_log_level=level)
        assert f"LOG_LEVEL={level}" in machine.containers()["api"]["Config"]["Env"]
    # An Engine that is back soon may find the deploy alive, which goes on or does its own way back.
    assert resumed or what == "engine"
    print(f"{moments} times the end of the {what}: {resumed} times brought up again, at most {longest:.0f} s after it; acknowledged: {ledger.told()}")
