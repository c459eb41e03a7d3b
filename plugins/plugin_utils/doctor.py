# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a stack and its host, judged from its status, each with what to do about it. A check that finds nothing wrong says nothing.

One cause has one finding: what follows from an Engine that does not answer, or from a service that does not run, is not told again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.campaign.platform.plugins.plugin_utils.status import number, size, span, title, who

Status = Mapping[str, Any]
FAILURE, WARNING = "failure", "warning"
# How long a service that started again is remembered.
RESTART_SECONDS = 900
# What docker_host installs and what the collection is tested with.
LEAST_ENGINE, LEAST_COMPOSE = (20, 10), (2, 26)
_DEPLOY = "Deploy again, which puts it right."
# Below the stack's directory: what brings the release in use up again.
_RESUME = "client/resume"


class LimitsError(ValueError):
    """The limits make no sense; the text names the variable."""


@dataclass(frozen=True)
class Limits:
    """From where on something is a warning, and from where on a failure. Percents of what is used, but for certificates, which have days left."""

    disk: Sequence[int] = (85, 95)
    memory: Sequence[int] = (90, 97)
    metric: Sequence[int] = (80, 95)
    certificate_days: Sequence[int] = (30, 7)
    # Seconds that the host's clock may differ from the controller's.
    clock: int = 60


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    check: str
    severity: str
    seen: str
    remedy: str


@dataclass(frozen=True)
class Case:
    """What the checks look at: the status, the limits, and by how many seconds the host's clock is ahead of the controller's."""

    status: Status
    limits: Limits = Limits()
    skew: float = 0.0

    @property
    def running(self) -> set[str]:
        """The services that run."""
        return {service["name"] for service in self.status["services"] if service["state"] == "running"}

    def compose(self, arguments: str) -> str:
        """Return a command of Docker Compose for this stack, as a person types it on the host."""
        return f"`docker compose -p {self.status['project']} {arguments}`"


# What is wrong, severity and remedy; the name is that of the check.
Found = Iterator[tuple[str, str, str]]


def _graded(value: float, limits: Sequence[int]) -> str | None:
    """Return the severity of a value that should be low, None where it is low."""
    warning, failure = limits
    return FAILURE if value >= failure else WARNING if value >= warning else None


def _version(text: str | None) -> tuple[int, ...]:
    parts = (text or "").split("+")[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def _engine(case: Case) -> Found:
    engine = case.status["engine"]
    if engine is None:
        yield (
            f"The Docker Engine does not answer: {case.status['engine_error']}.",
            FAILURE,
            "Start it (`systemctl start docker`) and read `journalctl -u docker`. If it runs, this user may not use its socket: become root (-b).",
        )
    elif _version(engine["version"]) < LEAST_ENGINE:
        yield f"The Docker Engine is {engine['version']}.", WARNING, f"Install {'.'.join(map(str, LEAST_ENGINE))} or later."


def _compose(case: Case) -> Found:
    found = case.status["compose"]
    least = ".".join(map(str, LEAST_COMPOSE))
    if found is None:
        yield "`docker compose` does not run on the host.", FAILURE, f"Install Docker's Compose plugin, {least} or later, or deploy again, which does."
    elif _version(found) < LEAST_COMPOSE:
        yield f"Docker Compose is {found}.", WARNING, f"Install {least} or later."


def _release(case: Case) -> Found:
    release, attempted = case.status["release"], case.status["attempted"]
    if release is None:
        yield f"No release is in use below {case.status['directory']}.", FAILURE, "Deploy, or give the directory of the stack in stack_directory."
    elif release["error"]:
        yield release["error"], FAILURE, "Deploy again, as root, which writes it again."
    # Who holds the lock works on it, or has died with it, which the check of the lock tells.
    if attempted is not None and case.status["lock"] is None:
        yield _attempt(case, attempted)


def _attempt(case: Case, attempted: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what became of a deploy that was not taken into use, by the last line of the history but for who took a lock over."""
    what = f"The deploy of release {attempted['id']}, begun {attempted['since']},"
    event = next((line["event"] for line in case.status["history"] if line["event"] != "aborted"), "started")
    if event in ("rolled_back", "resumed", "withdrawn"):
        return (
            f"{what} failed, and the release before it was put back.",
            WARNING,
            "Nothing has to be done for what runs. Read what that deploy said, put it right, and deploy again.",
        )
    if event in ("not_rolled_back", "not_resumed"):
        return (
            f"{what} failed, and the release before it did not come up again.",
            FAILURE,
            f"When the cause is gone, `python3 -B {case.status['directory']}/{_RESUME}` on the host, as root, starts it again without a deploy.",
        )
    return f"{what} did not end with success.", WARNING, "Deploy again, which puts right what that one left."


def _lock(case: Case) -> Found:
    held, unfinished = case.status["lock"], case.status["unfinished"]
    # Who holds the lock may be at work on it.
    if unfinished and not (held and held["is_alive"]):
        yield unfinished["what"], FAILURE, unfinished["remedy"]
    if held is None:
        return
    holder = f"{who(held)}, process {held['pid']}"
    if held["is_alive"]:
        yield f"{holder}, works on the stack since {held['since']}.", WARNING, "Wait until that has ended: what was found may be what it does."
    else:
        silent = span(held["age_seconds"])
        yield f"{holder}, held the lock since {held['since']} and was silent for {silent}.", WARNING, "It was killed. Deploy again, which takes the lock over."


def _services(case: Case) -> Found:
    services = case.status["services"]
    if services and all(service["state"] == "missing" for service in services):
        yield "No service has a container: the stack was taken down, or never started.", FAILURE, "Deploy again, which brings it back with its data."
        return
    for service in services:
        name, state = service["name"], service["state"]
        logs = f"Read {case.compose(f'logs --tail=50 {name}')}, and deploy again."
        if state == "missing":
            yield f"{name} has no container.", FAILURE, "Deploy again, which creates it."
        elif state == "restarting":
            # Its own check tells more.
            continue
        elif state == "paused":
            yield f"{name} is paused.", FAILURE, f"{case.compose(f'unpause {name}')}."
        elif state != "running":
            code = "" if service["exit_code"] is None else f", with exit code {service['exit_code']}"
            why = f": {service['error']}" if service["error"] else ""
            start = case.compose(f"start {name}")
            yield f"{name} is {state}{code}{why}.", FAILURE, f"If somebody stopped it, {start}. If not, {logs[0].lower()}{logs[1:]}"
        elif service["health"] == "unhealthy":
            said = service["health_output"] or "its healthcheck said nothing"
            yield f"{name} is unhealthy: {said}.", FAILURE, logs
        elif service["health"] == "none":
            yield f"{name} has no healthcheck, so nobody knows whether it works.", WARNING, "Give it one, in its Compose text or its image."


def _jobs(case: Case) -> Found:
    for job in case.status["jobs"]:
        if job["exit_code"]:
            logs = case.compose(f"logs {job['name']}")
            yield f"The job {job['name']} ended with exit code {job['exit_code']}.", FAILURE, f"Read {logs}, and deploy again."


def _restarts(case: Case) -> Found:
    for service in case.status["services"]:
        logs = f"Read {case.compose('logs --tail=50 ' + service['name'])}: its last lines before each start say why it ended."
        if service["state"] == "restarting":
            yield f"{service['name']} ends again and again, {service['restarts']} times so far, last with exit code {service['exit_code']}.", FAILURE, logs
        elif service["restarts"] and service["up_seconds"] is not None and service["up_seconds"] < RESTART_SECONDS:
            yield f"{service['name']} was started again {service['restarts']} times, last {span(service['up_seconds'])} ago.", WARNING, logs


def _oom(case: Case) -> Found:
    for service in case.status["services"]:
        if service["oom_killed"] or service["oom_kills"]:
            limit = service["memory_limit_bytes"]
            where = f"its limit is {size(limit)}" if limit else "it has no limit, so it was the host's memory"
            yield (
                f"The kernel ended {'a process of ' if service['state'] == 'running' else ''}{service['name']} for want of memory; {where}.",
                FAILURE,
                f"Give {service['name']} more: deploy.resources.limits.memory in its entry of stack_services. Deploying it clears this finding.",
            )


def _memory(case: Case) -> Found:
    memory = case.status["host"]["memory"]
    if memory:
        used = 100 * (1 - memory["available"] / memory["total"])
        if severity := _graded(used, case.limits.memory):
            yield (
                f"The host has {size(memory['available'])} of {size(memory['total'])} of memory left.",
                severity,
                "Look at `docker stats` and `ps --sort=-rss aux`. End what does not belong there, or give the host more.",
            )
    for service in case.status["services"]:
        used, limit = service["memory_bytes"], service["memory_limit_bytes"]
        if used is not None and limit and (severity := _graded(100 * used / limit, case.limits.memory)):
            # At the limit the kernel ends it; until then it works.
            yield (
                f"{service['name']} uses {size(used)} of its {size(limit)} of memory.",
                WARNING,
                f"Give {service['name']} more: deploy.resources.limits.memory in its entry of stack_services.",
            )


def _ports(case: Case) -> Found:
    for port in case.status["ports"]:
        place = f"{port['address']}:{port['port']}"
        if port["service"] not in case.running:
            continue
        if not port["published"]:
            yield (
                f"{port['service']} does not publish {place}, as the release has it.",
                FAILURE,
                f"See who has it: `ss -ltnp 'sport = :{port['port']}'`. {_DEPLOY}",
            )
        elif not port["accepts"]:
            yield (
                f"{place} of {port['service']} refuses connections, although it is published.",
                FAILURE,
                f"Look for a firewall (`iptables -S`, `nft list ruleset`). {case.compose('restart ' + port['service'])} publishes it again.",
            )


def _disk(case: Case) -> Found:
    kinds = (
        ("bytes", "full", "`docker system df` shows what Docker keeps there; `docker image prune` and `docker builder prune` remove what nothing uses."),
        ("inodes", "out of inodes", "Look for directories with many small files: `du --inodes -x -d3 MOUNT | sort -n | tail`."),
    )
    for row in case.status["filesystems"]:
        for kind, what, remedy in kinds:
            counted = row[kind]
            if counted and (severity := _graded(counted["percent"], case.limits.disk)):
                free = size(counted["free"]) if kind == "bytes" else f"{counted['free']} inodes"
                yield f"{row['mount']} is {counted['percent']:g} % {what}, {free} left. It holds {', '.join(row['holds'])}.", severity, remedy


def _clock(case: Case) -> Found:
    keep = "Install and start chrony (`apt-get install chrony`), or let the hypervisor keep the time."
    if case.status["host"]["clock_synchronised"] is False:
        yield "Nothing keeps the host's clock right.", WARNING, keep
    if abs(case.skew) > case.limits.clock:
        ahead = "ahead of" if case.skew > 0 else "behind"
        yield f"The host's clock is {span(abs(case.skew))} {ahead} this machine's. Sign-ins, certificates and S3 need the time.", FAILURE, keep


def _dns(case: Case) -> Found:
    dns = case.status["host"]["dns"]
    if not dns["nameservers"]:
        yield "/etc/resolv.conf names no server.", FAILURE, "Name one there, or in what writes it. Docker gives containers the servers of that file."
    if dns["localhost_error"]:
        yield f"The host does not know the name localhost: {dns['localhost_error']}.", FAILURE, "Add the line `127.0.0.1 localhost` to /etc/hosts."


def _drift_of(case: Case, kinds: Mapping[str, tuple[str, str]]) -> Found:
    for row in case.status["drift"]:
        if row["kind"] in kinds:
            severity, remedy = kinds[row["kind"]]
            yield f"{row['service'] + ': ' if row['service'] else ''}{row['what']}.", severity, remedy


def _secrets(case: Case) -> Found:
    yield from _drift_of(case, {"secret": (FAILURE, _DEPLOY)})


def _drift(case: Case) -> Found:
    # Containers that are missing or stopped are found by the check of services, secrets by their own.
    kinds = {
        "image": (WARNING, "Deploy again. If somebody gave the tag to another image, the deploy takes that one; images_lock pins digests."),
        "definition": (WARNING, _DEPLOY),
        "name": (WARNING, _DEPLOY),
        "surplus": (WARNING, "If nobody needs it, deploy again, which removes it."),
        "config": (FAILURE, f"Change the inventory instead of the host. {_DEPLOY}"),
        "release": (FAILURE, _DEPLOY),
        "stale": (FAILURE, _DEPLOY),
    }
    yield from _drift_of(case, kinds)


def _certificates(case: Case) -> Found:
    warning, failure = case.limits.certificate_days
    for row in case.status["certificates"]:
        remedy = "Renew it, give the new one in stack_tls_certificate and its key in stack_secrets.tls_private_key, and deploy."
        if row["error"]:
            yield f"The certificate of {row['server_name']} cannot be read: {row['error']}", FAILURE, remedy
        elif row["days"] < warning:
            told = f"expires in {row['days']} days" if row["days"] >= 0 else "has expired"
            yield f"The certificate of {row['server_name']} {told} ({row['expires']}).", FAILURE if row["days"] < failure else WARNING, remedy


def _metrics(case: Case) -> Found:
    for metric in case.status["metrics"]:
        value, limit = metric["value"], metric["limit"]
        name, remedy = f"{metric['service']}: {metric['name']}", metric["remedy"] or "Look at the service."
        if metric["error"] or value is None:
            continue
        if metric["expect"] is not None and not math.isclose(value, metric["expect"]):
            yield f"{name} is {number(value)}, not {number(metric['expect'])}.", WARNING, remedy
        elif limit and (severity := _graded(100 * value / limit, case.limits.metric)):
            yield f"{name} is at {number(value)} of {number(limit)}.", severity, remedy


# `{run}` is the program on the host, `{logs}` shows what the service wal says.
_BACKUP_REMEDIES = {
    "backup failed": "Put right what it says, and make one: the playbook backup.",
    "backup late": "See that the host still makes them: `systemctl list-timers`, or cron's log. The playbook backup makes one now.",
    "drill failed": "Do not count on it. Make another backup, try that one (the playbook drill), and look at the repository: on the host, as root, "
    "`{run} check --read-data`.",
    "never restored": "Try one: the playbook drill.",
    "log late": "Read the log of the service wal, {logs}, and ask what ships it: on the host, as root, `{run} ship` says what is wrong.",
    "clock wrong": "See that the host's clock is right (`timedatectl`). If it is, name the set that you want (`{run} list` shows them), or remove the one that "
    "is ahead, as docs/troubleshooting.md says.",
    "nothing calls it": "Install cron, or run the playbook backup, which puts the timers on. Where somebody else calls it, set backup_scheduler to none.",
    "not brought back": "Nothing is wrong with the set. After a restore, put it back by hand, as docs/troubleshooting.md says; or take the setting away.",
    "drill late": "Try the newest one: the playbook drill. backup_drill_after_backup does it each time.",
}


def _backup(case: Case) -> Found:
    for row in (case.status.get("backup") or {}).get("findings", []):
        remedy = _BACKUP_REMEDIES[row["name"]].format(run=f"{case.status['directory']}/backup/run", logs=case.compose("logs --tail=50 wal"))
        yield f"{row['name']}: {row['seen']}", row["severity"], remedy


CHECKS: dict[str, Callable[[Case], Found]] = {
    "engine": _engine,
    "compose": _compose,
    "release": _release,
    "lock": _lock,
    "services": _services,
    "jobs": _jobs,
    "restarts": _restarts,
    "oom": _oom,
    "memory": _memory,
    "ports": _ports,
    "disk": _disk,
    "clock": _clock,
    "dns": _dns,
    "secrets": _secrets,
    "drift": _drift,
    "certificates": _certificates,
    "metrics": _metrics,
    "backup": _backup,
}
# What only an Engine that answers can say.
_OF_THE_ENGINE = frozenset(["services", "jobs", "restarts", "oom", "ports", "metrics"])


def check_limits(limits: Limits) -> None:
    """Raise LimitsError where a pair of limits is none, or is in the wrong order."""
    for name, pair in asdict(limits).items():
        if name == "clock":
            continue
        falls = name == "certificate_days"
        if len(pair) != 2 or (pair[0] < pair[1] if falls else pair[0] > pair[1]):
            example = "[30, 7]" if falls else "[85, 95]"
            raise LimitsError(
                f"stack_doctor_{name} must be two whole numbers, from where on there is a warning and from where on a failure, such as {example}."
            )


def unknown_of(case: Case) -> dict[str, str]:
    """Return the checks that could not look at all they should, with the reason."""
    status = case.status
    reasons = dict.fromkeys(_OF_THE_ENGINE, "the Docker Engine does not answer") if status["engine"] is None else {}
    if status["host"]["clock_synchronised"] is None:
        reasons["clock"] = "the kernel does not say whether its clock is kept right"
    for row in status["not_known"]:
        if row["what"] in ("secret", "config", "definition"):
            reasons["secrets" if row["what"] == "secret" else "drift"] = row["why"]
    for metric in status["metrics"]:
        if metric["error"] and metric["service"] in case.running:
            reasons["metrics"] = f"{metric['service']}, {metric['name']}: {metric['error']}"
    return reasons


def diagnose(case: Case, skip: Sequence[str] = ()) -> list[Finding]:
    """Return what the checks find, failures first."""
    found = [Finding(name, severity, seen, remedy) for name, check in CHECKS.items() if name not in skip for seen, severity, remedy in check(case)]
    return sorted(found, key=lambda finding: finding.severity != FAILURE)


def counted(count: int, name: str) -> str:
    """Return a number of things in words."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def lines(case: Case, findings: Sequence[Finding], skip: Sequence[str] = ()) -> list[str]:
    """Return the findings as lines of text, and what was looked at."""
    told = []
    for finding in findings:
        told += [f"{finding.severity.upper():7}  {finding.check}: {finding.seen}", f"         Fix: {finding.remedy}"]
    unknown = {name: why for name, why in unknown_of(case).items() if name not in skip}
    told += [f"not known  {name}: {why}" for name, why in unknown.items()]
    asked = [name for name in CHECKS if name not in skip]
    failures = sum(finding.severity == FAILURE for finding in findings)
    warnings = len(findings) - failures
    result = ", ".join(counted(number, name) for number, name in ((failures, FAILURE), (warnings, WARNING)) if number) or "no finding"
    left_out = f" Left out: {', '.join(skip)}." if skip else ""
    return [*told, f"{title(case.status)}: {len(asked)} checks, {result}.{left_out}"]
