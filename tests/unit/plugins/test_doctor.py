# SPDX-License-Identifier: GPL-3.0-or-later
"""Each check finds the fault that it is for, says what to do, and is quiet otherwise; one cause has one finding."""

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.action.doctor import skew_of
from ansible_collections.campaign.platform.plugins.plugin_utils import doctor, status
from ansible_collections.campaign.platform.plugins.plugin_utils.doctor import FAILURE, WARNING, Case, Limits

ROOT = Path(__file__).resolve().parents[3]
GIB = 2**30


def service(name: str, **more) -> dict:
    row = {"name": name, "state": "running", "health": "healthy", "health_output": "", "container": f"p-{name}-1", "image": f"{name}:1", "image_id": "sha256:a"}
    row |= {"image_wanted": "sha256:a", "image_matches": True, "started": "2026-11-26T10:00:00Z", "up_seconds": 7200, "exit_code": None, "error": ""}
    return row | {"restarts": 0, "oom_killed": False, "oom_kills": 0, "memory_bytes": 100, "memory_limit_bytes": 1000, **more}


def share(percent: float) -> dict:
    return {"used": 10, "free": 90, "percent": percent}


HEALTHY = {
    "schema": 1,
    "at": "2026-11-26T12:00:00Z",
    "directory": "/opt/campaign",
    "project": "p",
    "release": {"id": "aaaaaaaaaaaa", "since": "2026-11-26T10:00:00Z", "variant": "prod", "error": None},
    "attempted": None,
    "lock": None,
    "unfinished": None,
    "history": [],
    "kept": [{"id": "bbbbbbbbbbbb", "staged": "2026-11-25T10:00:00Z"}],
    "host": {
        "name": "host.example.com",
        "memory": {"total": 4 * GIB, "available": 2 * GIB},
        "clock_synchronised": True,
        "dns": {"nameservers": ["192.0.2.1"], "localhost_error": None},
    },
    "engine": {"version": "20.10.24+dfsg1", "api_version": "1.41", "data_root": "/var/lib/docker"},
    "engine_error": None,
    "compose": "2.26.1",
    "services": [service("api"), service("rules-engine", memory_limit_bytes=None)],
    "jobs": [{"name": "api-migrate", "state": "exited", "exit_code": 0, "finished": "2026-11-26T10:00:00Z"}],
    "ports": [{"service": "api", "address": "127.0.0.1", "port": 3000, "published": True, "accepts": True}],
    "volumes": [{"name": "p_data", "path": "/var/lib/docker/volumes/p_data/_data", "size_bytes": 5000, "mount": "/"}],
    "filesystems": [{"mount": "/", "holds": ["the Engine's data", "volume p_data"], "bytes": share(40), "inodes": share(10)}],
    "metrics": [{"service": "api", "name": "queue", "value": 3.0, "limit": 97.0, "expect": None, "remedy": "Wait.", "error": None}],
    "certificates": [{"service": "frontend", "server_name": "platform.example.com", "expires": "2027-11-26T10:00:00Z", "days": 365, "error": None}],
    "backup": None,
    "drift": [],
    "not_known": [],
}


LOCK = {"user": "ada", "controller": "desk", "pid": 19, "since": "2026-11-26T11:59:00Z", "release": "cccccccccccc", "age_seconds": 2, "is_alive": True}
ATTEMPTED = {"id": "cccccccccccc", "since": "2026-11-26T11:00:00Z", "variant": "prod", "error": None}
EVENT = {"time": "2026-11-26T11:00:00Z", "event": "rolled_back", "release": "cccccccccccc", "user": "ada", "controller": "desk", "commit": "0123456789abcdef"}


def ill(change: Callable[[dict], object] | None = None) -> dict:
    """Return the status of a healthy host on which something was changed."""
    found = copy.deepcopy(HEALTHY)
    if change:
        change(found)
    return found


def of_service(**more) -> Callable[[dict], object]:
    return lambda found: found["services"][0].update(more)


def drift(kind: str, what: str = "is otherwise", name: str | None = "api") -> Callable[[dict], object]:
    return lambda found: found["drift"].append({"service": name, "kind": kind, "what": what})


def found_in(change, **case) -> list[tuple[str, str, str]]:
    return [(finding.check, finding.severity, finding.seen) for finding in doctor.diagnose(Case(ill(change), **case))]


def test_a_healthy_host_has_no_finding():
    assert doctor.diagnose(Case(ill())) == []
    assert doctor.unknown_of(Case(ill())) == {}
    assert doctor.lines(Case(ill()), []) == ["p on host.example.com: 18 checks, no finding."]


FAULTS = [
    (
        lambda found: found.update(backup={"findings": [{"name": "backup late", "severity": FAILURE, "seen": "It is not there."}]}),
        "backup",
        FAILURE,
        "backup late: It is not there.",
    ),
    (
        lambda found: found.update(backup={"findings": [{"name": "never restored", "severity": WARNING, "seen": "No set was brought back."}]}),
        "backup",
        WARNING,
        "never restored: No set was brought back.",
    ),
    (
        lambda found: found.update(backup={"findings": [{"name": "not brought back", "severity": WARNING, "seen": "The lifecycle of b was not."}]}),
        "backup",
        WARNING,
        "not brought back: The lifecycle of b was not.",
    ),
    (lambda found: found["engine"].update(version="19.03.1"), "engine", WARNING, "The Docker Engine is 19.03.1."),
    (lambda found: found.update(compose=None), "compose", FAILURE, "`docker compose` does not run on the host."),
    (lambda found: found.update(compose="2.20.0"), "compose", WARNING, "Docker Compose is 2.20.0."),
    (lambda found: found.update(release=None), "release", FAILURE, "No release is in use below /opt/campaign."),
    (lambda found: found["release"].update(error="It is not a manifest."), "release", FAILURE, "It is not a manifest."),
    (
        lambda found: found.update(attempted=ATTEMPTED),
        "release",
        WARNING,
        "The deploy of release cccccccccccc, begun 2026-11-26T11:00:00Z, did not end with success.",
    ),
    *(
        (
            lambda found, event=event: found.update(attempted=ATTEMPTED, history=[{"event": "aborted"}, {"event": event}, {"event": "succeeded"}]),
            "release",
            severity,
            f"The deploy of release cccccccccccc, begun 2026-11-26T11:00:00Z, {words}",
        )
        for event, severity, words in (
            ("started", WARNING, "did not end with success."),
            ("rolled_back", WARNING, "failed, and the release before it was put back."),
            ("withdrawn", WARNING, "failed, and the release before it was put back."),
            ("not_rolled_back", FAILURE, "failed, and the release before it did not come up again."),
        )
    ),
    (lambda found: found.update(lock=LOCK), "lock", WARNING, "ada@desk, process 19, works on the stack since 2026-11-26T11:59:00Z."),
    (
        lambda found: found.update(lock={**LOCK, "is_alive": False, "age_seconds": 300}),
        "lock",
        WARNING,
        "ada@desk, process 19, held the lock since 2026-11-26T11:59:00Z and was silent for 5 min.",
    ),
    (lambda found: found.update(unfinished={"what": "An upgrade was cut off.", "remedy": "Go on."}), "lock", FAILURE, "An upgrade was cut off."),
    (
        lambda found: found.update(lock=LOCK, unfinished={"what": "An upgrade was cut off.", "remedy": "Go on."}),
        "lock",
        WARNING,
        "ada@desk, process 19, works on the stack since 2026-11-26T11:59:00Z.",
    ),
    (
        lambda found: found.update(lock=LOCK, attempted=HEALTHY["release"]),
        "lock",
        WARNING,
        "ada@desk, process 19, works on the stack since 2026-11-26T11:59:00Z.",
    ),
    (of_service(state="missing", health=None, up_seconds=None), "services", FAILURE, "api has no container."),
    (of_service(state="exited", exit_code=137, error="no space"), "services", FAILURE, "api is exited, with exit code 137: no space."),
    (of_service(state="created"), "services", FAILURE, "api is created."),
    (of_service(state="paused"), "services", FAILURE, "api is paused."),
    (of_service(health="unhealthy", health_output="no route"), "services", FAILURE, "api is unhealthy: no route."),
    (of_service(health="unhealthy"), "services", FAILURE, "api is unhealthy: its healthcheck said nothing."),
    (of_service(health="none"), "services", WARNING, "api has no healthcheck, so nobody knows whether it works."),
    (lambda found: found["jobs"][0].update(exit_code=3), "jobs", FAILURE, "The job api-migrate ended with exit code 3."),
    (
        of_service(state="restarting", restarts=7, exit_code=1, up_seconds=None),
        "restarts",
        FAILURE,
        "api ends again and again, 7 times so far, last with exit code 1.",
    ),
    (of_service(restarts=2, up_seconds=120), "restarts", WARNING, "api was started again 2 times, last 2 min ago."),
    (of_service(oom_kills=1), "oom", FAILURE, "The kernel ended a process of api for want of memory; its limit is 1000 B."),
    (
        of_service(oom_killed=True, memory_limit_bytes=None),
        "oom",
        FAILURE,
        "The kernel ended a process of api for want of memory; it has no limit, so it was the host's memory.",
    ),
    (lambda found: found["host"]["memory"].update(available=GIB // 5), "memory", WARNING, "The host has 205 MiB of 4.0 GiB of memory left."),
    (lambda found: found["host"]["memory"].update(available=0), "memory", FAILURE, "The host has 0 B of 4.0 GiB of memory left."),
    (of_service(memory_bytes=990), "memory", WARNING, "api uses 990 B of its 1000 B of memory."),
    (lambda found: found["ports"][0].update(published=False, accepts=None), "ports", FAILURE, "api does not publish 127.0.0.1:3000, as the release has it."),
    (lambda found: found["ports"][0].update(accepts=False), "ports", FAILURE, "127.0.0.1:3000 of api refuses connections, although it is published."),
    (
        lambda found: found["filesystems"][0].update(bytes=share(85)),
        "disk",
        WARNING,
        "/ is 85 % full, 90 B left. It holds the Engine's data, volume p_data.",
    ),
    (lambda found: found["filesystems"][0].update(bytes=share(95)), "disk", FAILURE, "/ is 95 % full, 90 B left. It holds the Engine's data, volume p_data."),
    (
        lambda found: found["filesystems"][0].update(inodes=share(99.5)),
        "disk",
        FAILURE,
        "/ is 99.5 % out of inodes, 90 inodes left. It holds the Engine's data, volume p_data.",
    ),
    (lambda found: found["host"].update(clock_synchronised=False), "clock", WARNING, "Nothing keeps the host's clock right."),
    (lambda found: found["host"]["dns"].update(nameservers=[]), "dns", FAILURE, "/etc/resolv.conf names no server."),
    (
        lambda found: found["host"]["dns"].update(localhost_error="Name or service not known"),
        "dns",
        FAILURE,
        "The host does not know the name localhost: Name or service not known.",
    ),
    (drift("secret", "secrets/x has the mode 0444, not 0400"), "secrets", FAILURE, "api: secrets/x has the mode 0444, not 0400."),
    (drift("config"), "drift", FAILURE, "api: is otherwise."),
    (drift("stale"), "drift", FAILURE, "api: is otherwise."),
    (drift("release", name=None), "drift", FAILURE, "is otherwise."),
    *((drift(kind), "drift", WARNING, "api: is otherwise.") for kind in ("image", "definition", "name", "surplus")),
    (
        lambda found: found["certificates"][0].update(days=29),
        "certificates",
        WARNING,
        "The certificate of platform.example.com expires in 29 days (2027-11-26T10:00:00Z).",
    ),
    (
        lambda found: found["certificates"][0].update(days=6),
        "certificates",
        FAILURE,
        "The certificate of platform.example.com expires in 6 days (2027-11-26T10:00:00Z).",
    ),
    (
        lambda found: found["certificates"][0].update(days=-1),
        "certificates",
        FAILURE,
        "The certificate of platform.example.com has expired (2027-11-26T10:00:00Z).",
    ),
    (
        lambda found: found["certificates"][0].update(days=None, error="There is no certificate in it."),
        "certificates",
        FAILURE,
        "The certificate of platform.example.com cannot be read: There is no certificate in it.",
    ),
    (lambda found: found["metrics"][0].update(value=78.0), "metrics", WARNING, "api: queue is at 78 of 97."),
    (lambda found: found["metrics"][0].update(value=97.0), "metrics", FAILURE, "api: queue is at 97 of 97."),
    (lambda found: found["metrics"][0].update(limit=None, expect=1), "metrics", WARNING, "api: queue is 3, not 1."),
]


@pytest.mark.parametrize(("change", "check", "severity", "seen"), FAULTS)
def test_a_fault_is_found_once_and_by_its_check(change, check, severity, seen):
    case = Case(ill(change))
    (finding,) = doctor.diagnose(case)
    assert (finding.check, finding.severity, finding.seen) == (check, severity, seen)
    # What to do is said, and the check can be left out.
    assert finding.remedy.endswith(".")
    assert doctor.diagnose(case, [check]) == []
    assert doctor.lines(case, [finding])[:2] == [f"{severity.upper():7}  {check}: {seen}", f"         Fix: {finding.remedy}"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("drill failed", "on the host, as root, `/srv/other/backup/run check --read-data`."),
        (
            "log late",
            "the service wal, `docker compose -p campaign logs --tail=50 wal`, and ask what ships it: on the host, as root, `/srv/other/backup/run ship`",
        ),
    ],
)
def test_what_is_to_be_typed_is_of_the_stack_that_was_looked_at(name, remedy):
    found = {"directory": "/srv/other", "project": "campaign", "backup": {"findings": [{"name": name, "severity": FAILURE, "seen": "x"}]}}
    (finding,) = doctor.diagnose(Case(ill(lambda healthy: healthy.update(found))))
    assert remedy in finding.remedy


def test_every_finding_of_backups_has_a_remedy():
    text = (ROOT / "plugins/module_utils/backup/state.py").read_text()
    assert set(re.findall(r'add\(\s*"([a-z ]+)"', text)) == set(doctor._BACKUP_REMEDIES)


def test_every_check_has_a_fault():
    # That of the engine is below.
    assert {check for _change, check, _severity, _seen in FAULTS} == set(doctor.CHECKS)


def test_the_documents_name_every_check():
    page = (ROOT / "docs/operations.md").read_text()
    assert re.findall(r"^\| `([a-z]+)` \|", page.partition("| Check |")[2], re.MULTILINE)[: len(doctor.CHECKS)] == list(doctor.CHECKS)
    specs = (ROOT / "roles/stack/meta/argument_specs.yml").read_text()
    module = (ROOT / "plugins/modules/doctor.py").read_text()
    for text in (specs, module):
        assert {name for name in doctor.CHECKS if f"C({name})" not in text} == set()


def test_the_limits_are_those_of_the_role():
    defaults = yaml.safe_load((ROOT / "roles/stack/defaults/main.yml").read_text())
    limits = {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(Limits()).items()}
    assert {f"stack_doctor_{name}": value for name, value in limits.items()} == {
        name: value for name, value in defaults.items() if name.startswith("stack_doctor_") and name != "stack_doctor_skip"
    }


@pytest.mark.parametrize(
    "change",
    [
        of_service(health="starting"),
        of_service(restarts=2, up_seconds=doctor.RESTART_SECONDS),
        of_service(memory_bytes=None),
        lambda found: found["filesystems"][0].update(inodes=None, bytes=share(84.9)),
        lambda found: found["host"].update(memory=None),
        lambda found: found["certificates"][0].update(days=30),
        lambda found: found["metrics"][0].update(value=97.0, limit=None),
        lambda found: found["metrics"][0].update(value=1.0, limit=None, expect=1),
        lambda found: found["engine"].update(version="next"),
        lambda found: found["jobs"][0].update(state="missing", exit_code=None),
    ],
)
def test_what_is_no_fault_is_not_found(change):
    change_only_what_it_says = found_in(change)
    assert [row for row in change_only_what_it_says if row[0] != "engine"] == []


def test_an_engine_that_is_down_is_the_only_finding():
    def stop(found: dict) -> None:
        found.update(engine=None, engine_error="/var/run/docker.sock: Permission denied", services=[], jobs=[], ports=[], metrics=[], volumes=[])

    case = Case(ill(stop))
    (finding,) = doctor.diagnose(case)
    assert (finding.check, finding.severity) == ("engine", FAILURE)
    assert finding.seen == "The Docker Engine does not answer: /var/run/docker.sock: Permission denied."
    # What nobody could look at is not said to be well.
    assert set(doctor.unknown_of(case)) == {"services", "jobs", "restarts", "oom", "ports", "metrics"}
    assert "not known  services: the Docker Engine does not answer" in doctor.lines(case, [finding])


def test_a_service_that_does_not_run_is_one_finding():
    def stop(found: dict) -> None:
        of_service(state="exited", exit_code=1, health=None, up_seconds=None, memory_bytes=None)(found)
        drift("container", "is exited")(found)
        found["ports"][0].update(published=False, accepts=None)
        found["metrics"][0].update(value=None, error="the service does not run")

    assert [row[0] for row in found_in(stop)] == ["services"]


def test_a_stack_that_was_taken_down_is_one_finding():
    def down(found: dict) -> None:
        for row in found["services"]:
            row.update(state="missing", health=None, up_seconds=None, memory_bytes=None)
            drift("container", "it has no container", row["name"])(found)
        found["ports"][0].update(published=False, accepts=None)
        found["jobs"][0].update(state="missing", exit_code=None)

    assert found_in(down) == [("services", FAILURE, "No service has a container: the stack was taken down, or never started.")]


def test_failures_come_first():
    def change(found: dict) -> None:
        found["host"].update(clock_synchronised=False)
        found["certificates"][0].update(days=1)

    case = Case(ill(change))
    findings = doctor.diagnose(case)
    assert [finding.severity for finding in findings] == [FAILURE, WARNING]
    assert doctor.lines(case, findings, ["dns"])[-1] == "p on host.example.com: 17 checks, 1 failure, 1 warning. Left out: dns."


@pytest.mark.parametrize(("skew", "told"), [(61.0, "1 min ahead of"), (-7200.0, "2 h behind"), (60.0, None), (-60.0, None)])
def test_a_clock_that_differs_is_found(skew, told):
    found = found_in(None, skew=skew)
    assert ([f"The host's clock is {told} this machine's." in seen for _check, _severity, seen in found] == [True]) == (told is not None)
    assert [row[:2] for row in found] == ([("clock", FAILURE)] if told else [])


@pytest.mark.parametrize(
    ("at", "before", "after", "skew"),
    [
        ("1970-01-01T00:01:40Z", 100.2, 101.0, 0.0),
        ("1970-01-01T00:01:40Z", 99.0, 103.0, 0.0),
        ("1970-01-01T00:01:40Z", 90.0, 92.0, 8.0),
        ("1970-01-01T00:01:40Z", 111.0, 112.0, -10.0),
    ],
)
def test_the_time_that_the_question_took_is_no_difference(at, before, after, skew):
    assert skew_of(at, before, after) == pytest.approx(skew)


def test_limits_are_the_user_s():
    limits = Limits(disk=[10, 20], certificate_days=[400, 366], memory=[5, 6], metric=[1, 2])
    assert [(finding.check, finding.severity) for finding in doctor.diagnose(Case(ill(), limits))] == [
        ("memory", FAILURE),
        ("disk", FAILURE),
        ("certificates", FAILURE),
        ("metrics", FAILURE),
        ("memory", WARNING),
        ("disk", WARNING),
    ]


@pytest.mark.parametrize(
    "limits", [{"disk": [95, 85]}, {"disk": [85]}, {"disk": [85, 85, 95]}, {"memory": [98, 90]}, {"metric": []}, {"certificate_days": [7, 30]}]
)
def test_limits_that_make_no_sense_are_refused_by_name(limits):
    (name,) = limits
    with pytest.raises(doctor.LimitsError, match=f"stack_doctor_{name} must be two whole numbers"):
        doctor.check_limits(Limits(**limits))


def test_the_limits_that_nobody_gave_are_right():
    doctor.check_limits(Limits())
    doctor.check_limits(Limits(disk=[90, 90]))


def test_what_could_not_be_looked_at_is_said():
    def change(found: dict) -> None:
        found["host"].update(clock_synchronised=None)
        found["not_known"] = [{"what": "secret", "why": "secrets/x: Permission denied"}, {"what": "config", "why": "config/x: Permission denied"}]
        found["metrics"][0].update(value=None, error="exit code 2: no such database")

    case = Case(ill(change))
    assert doctor.diagnose(case) == []
    assert doctor.unknown_of(case) == {
        "clock": "the kernel does not say whether its clock is kept right",
        "secrets": "secrets/x: Permission denied",
        "drift": "config/x: Permission denied",
        "metrics": "api, queue: exit code 2: no such database",
    }
    assert "not known  metrics: api, queue: exit code 2: no such database" in doctor.lines(case, [])
    assert not any("clock" in line for line in doctor.lines(case, [], ["clock"])[:-1])


def test_a_remedy_names_the_stack_s_own_commands():
    (finding,) = doctor.diagnose(Case(ill(of_service(health="unhealthy"))))
    assert finding.remedy == "Read `docker compose -p p logs --tail=50 api`, and deploy again."


# --- The status as a person reads it


def text(change=None) -> str:
    return "\n".join(status.lines(ill(change)))


def test_the_lines_of_a_healthy_stack():
    assert status.lines(ill()) == [
        "p on host.example.com, 2026-11-26 12:00:00 UTC",
        "Release  aaaaaaaaaaaa, prod, activated 2026-11-26 10:00:00 UTC",
        "Kept     bbbbbbbbbbbb",
        "Engine   20.10.24+dfsg1, Compose 2.26.1",
        "Memory   2.0 GiB of 4.0 GiB available",
        "Drift    none",
        "",
        "Service       State    Health   Up   Restarts  Memory           Image",
        "api           running  healthy  2 h  0         100 B of 1000 B  api:1 a",
        "rules-engine  running  healthy  2 h  0         100 B            rules-engine:1 a",
        "",
        "Job          Last run                Ended",
        "api-migrate  ended with exit code 0  2026-11-26 10:00:00 UTC",
        "",
        "Service  Address         Port",
        "api      127.0.0.1:3000  open",
        "",
        "Service  Metric  Value",
        "api      queue   3 of 97",
        "",
        "File system  Used                 Inodes  Holds",
        "/            10 B of 100 B, 40 %  10 %    the Engine's data, volume p_data",
        "",
        "Volume  Size     File system",
        "p_data  4.9 KiB  /",
        "",
        "Certificates",
        "Name                  Valid until",
        "platform.example.com  2027-11-26 10:00:00 UTC, in 365 d",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.update(release=None, project=None), "Release  none is in use"),
        (lambda found: found.update(engine=None, engine_error="no.sock: No such file"), "Engine   does not answer: no.sock: No such file"),
        (
            lambda found: found.update(attempted={**HEALTHY["release"], "id": "cccccccccccc"}),
            "cccccccccccc, prod, since 2026-11-26 10:00:00 UTC: its deploy did not",
        ),
        (lambda found: found["release"].update(error="It is not a manifest."), "Error    It is not a manifest."),
        (
            lambda found: found.update(lock=LOCK),
            "Lock     ada@desk, process 19, works on release cccccccccccc since 2026-11-26 11:59:00 UTC, last sign of life 2 s ago",
        ),
        (lambda found: found.update(lock=LOCK, attempted=HEALTHY["release"]), "since 2026-11-26 10:00:00 UTC, which is being deployed"),
        (
            lambda found: found.update(history=[EVENT, {**EVENT, "event": "started"}]),
            "Last     release cccccccccccc rolled back, by ada@desk, 2026-11-26 11:00:00 UTC, from commit 0123456789ab",
        ),
        (lambda found: found.update(history=[{**EVENT, "commit": None, "controller": None, "user": None}]), "by somebody, 2026-11-26 11:00:00 UTC"),
        (of_service(state="exited", exit_code=137, health=None), "exited (137)"),
        (of_service(health="unhealthy", health_output="no route"), "unhealthy: no route"),
        (of_service(image_matches=False, image_wanted="sha256:b"), "api:1 a, not what the reference stands for"),
        (of_service(image_matches=False, image_wanted=None), "api:1 a, which is no longer on the host"),
        (of_service(oom_kills=2), "100 B of 1000 B, killed for want of memory"),
        (lambda found: found["jobs"][0].update(state="missing", exit_code=None, finished=None), "api-migrate  no container  -"),
        (lambda found: found["ports"][0].update(published=False), "not published"),
        (lambda found: found["ports"][0].update(accepts=False), "published, but refuses connections"),
        (lambda found: found["metrics"][0].update(value=None, error="no answer"), "not known: no answer"),
        (lambda found: found["filesystems"][0].update(inodes=None), "40 %  -       the Engine's"),
        (drift("config", "was changed"), "api      config  was changed"),
        (lambda found: found["not_known"].append({"what": "services", "why": "nobody answers"}), "services  nobody answers"),
    ],
)
def test_what_is_otherwise_is_shown(change, told):
    assert told in text(change)


def test_drift_that_nobody_could_look_for_is_not_none():
    assert "Drift" not in text(lambda found: found.update(engine=None, engine_error="x"))
    assert "Drift    none" not in text(drift("config"))


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 * 1024, "10 KiB"), (GIB * 3, "3.0 GiB"), (2**50, "1024 TiB")]
)
def test_sizes(value, shown):
    assert status.size(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (86400 * 3, "3 d")])
def test_spans(value, shown):
    assert status.span(value) == shown


# --- The page and questions


def test_the_page_shows_everything_and_escapes_it():
    hostile = '<script>alert("x")</script>&'
    page = status.page(ill(of_service(health="unhealthy", health_output=hostile, name=hostile)))
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;") == 2
    for shown in ("aaaaaaaaaaaa", "rules-engine", "api-migrate", "127.0.0.1:3000", "p_data", "platform.example.com"):
        assert shown in page
    # The two colours are not the only sign.
    assert '<td class="bad">unhealthy: ' in page


def test_the_page_needs_nothing_else():
    page = status.page(ill())
    assert not any(word in page for word in ("http:", "https:", "src=", "href=", "@import", "url("))
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("services[?health!='healthy'].name", ["api"]),
        ("sort_by(services, &name)[0].name", "api"),
        ("filesystems[0].bytes.percent", 40),
        ("no.such.key", None),
    ],
)
def test_a_question_is_answered(query, expected):
    assert status.question(query)(ill(of_service(health=None))) == expected


@pytest.mark.parametrize("query", ["services[?health", "", "no_such_function(@)", "length(`1`)"])
def test_a_question_that_cannot_be_asked_is_refused(query):
    with pytest.raises(status.QueryError, match=r"is not a question in JMESPath: .+ One is services"):
        status.question(query)(ill())


def test_without_jmespath_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jmespath", None)
    with pytest.raises(status.QueryError, match="pip install jmespath"):
        status.question("services")
