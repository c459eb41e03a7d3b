# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is deployed below a stack's directory, what runs of it, and on what. Everything here only reads.

What cannot be found out is None, and `not_known` says why: a status of a host whose Engine is down still tells what its disk knows.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import functools
import json
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import certificate, host, links, lock, manifest, obstacles, plan
from ansible_collections.campaign.platform.plugins.module_utils.backup import state
from ansible_collections.campaign.platform.plugins.module_utils.compose import HASHES, config_command, hashes_of, noted_hashes
from ansible_collections.campaign.platform.plugins.module_utils.engine import PROJECT, Engine, EngineError, EngineTimeout, project_containers

SCHEMA = 1
METRIC_SECONDS = 15
# So many of the last events of the history are told.
EVENTS = 10
COMPOSE_SECONDS = 30
DETAIL = 200
# States in which a container has an exit code that says something.
ENDED = ("exited", "restarting", "dead")
# Kinds of drift by what a deploy would do about them.
KINDS = {plan.CREATE: "container", plan.START: "container", plan.RECREATE: "definition", plan.REMOVE: "surplus"}
# How the Engine spells that something never happened.
_NEVER = "0001-01-01"
_NUMBER = re.compile(r"-?\d+(\.\d+)?\Z")


@dataclass
class Observed:
    """What the Engine says of a project's containers and images."""

    # Those of each service, the one that runs first.
    containers: dict[str, list[dict]] = field(default_factory=dict)
    # Ids by reference, None for a reference that is not among the Engine's images.
    images: dict[str, str | None] = field(default_factory=dict)
    # What the kernel counts, by the container's id.
    memory: dict[str, int | None] = field(default_factory=dict)

    def of(self, service: str) -> dict | None:
        """Return a service's container, None where it has none."""
        return next(iter(self.containers.get(service, [])), None)


def plain(text: object, limit: int = DETAIL) -> str:
    """Return text on one line, without what a terminal would take for a command, cut to what a line can carry."""
    line = " ".join("".join(character if character.isprintable() else " " for character in str(text)).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def moment(seconds: float) -> str:
    """Return a time as text, in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str | None) -> float | None:
    """Return the seconds since 1970 of a time as the Engine writes it, None for one that never was."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text or "")
    if not found or found[1].startswith(_NEVER):
        return None
    zone = "+00:00" if found[3] == "Z" else found[3]
    return datetime.datetime.fromisoformat(found[1] + zone).timestamp() + float(found[2] or 0)


# --- Releases


def release_of(directory: str, link: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return id, time and error of the release that a link of the stack's directory names, None where there is no such link; and its manifest."""
    path = os.path.join(directory, link)
    try:
        since = os.lstat(path).st_mtime
        found = {"id": os.path.basename(os.readlink(path)), "since": moment(since), "variant": None, "error": None}
    except (FileNotFoundError, NotADirectoryError):
        return None, {}
    except OSError as error:
        return {"id": None, "since": None, "variant": None, "error": f"{path} cannot be read: {error.strerror}."}, {}
    try:
        written = manifest.read(os.path.join(path, manifest.NAME))
    except manifest.ManifestError as error:
        return {**found, "error": str(error)}, {}
    return {**found, "variant": {"dev": "local"}.get(written.get("layer"), written.get("layer"))}, written


def kept(directory: str, current: str | None) -> list[dict[str, Any]]:
    """Return the releases beside the current one that are on the host, the newest first."""
    root = os.path.join(directory, "releases")
    try:
        entries = [entry for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name != current]
    except OSError:
        return []
    return [{"id": entry.name, "staged": moment(entry.stat().st_mtime)} for entry in sorted(entries, key=lambda entry: -entry.stat().st_mtime)]


def lock_of(directory: str) -> dict[str, Any] | None:
    """Return who holds the stack's lock, None where nobody does; the holder is alive as long as its last sign of life is younger than the lease."""
    held = lock.read(directory)
    if held is None:
        return None
    shown = {name: held.get(name) for name in ("user", "controller", "machine", "pid", "run", "since", "release")}
    return {**shown, "age_seconds": max(int(held["age"]), 0), "is_alive": held["age"] < lock.LEASE}


def history_of(directory: str) -> list[dict[str, Any]]:
    """Return the last events of the stack's history, the newest first."""
    names = ("time", "event", "release", "user", "controller", "commit")
    return [{name: line.get(name) for name in names} for line in reversed(lock.history(directory)[-EVENTS:])]


# --- The Engine's answers


def _inspected(engine: Engine, identifier: str) -> dict | None:
    try:
        return engine.get(f"/containers/{identifier}/json")
    except EngineError as error:
        # Removed between the two questions.
        if error.status != 404:
            raise
        return None


def memory_used(engine: Engine, identifier: str) -> int | None:
    """Return the bytes that a container uses, without what the kernel can drop at once, as `docker stats` counts; None where the kernel does not say."""
    try:
        used = engine.get(f"/containers/{identifier}/stats", **{"stream": "0", "one-shot": "1"}).get("memory_stats") or {}
    except EngineError:
        return None
    if "usage" not in used:
        return None
    # Their names in the two versions of the kernel's control groups.
    counted = used.get("stats") or {}
    return max(used["usage"] - counted.get("total_inactive_file", counted.get("inactive_file", 0)), 0)


def observe(engine: Engine, project: str, references: Iterable[str]) -> Observed:
    """Ask the Engine for a project's containers and for images; raise EngineError."""
    found = Observed()
    wanted = sorted(set(references))
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        images = pool.map(lambda reference: plan.image_id(engine, reference), wanted)
        listed = [item["Id"] for item in project_containers(engine, project)]
        inspected = [container for container in pool.map(lambda identifier: _inspected(engine, identifier), listed) if container]
        running = [container["Id"] for container in inspected if container["State"]["Status"] == "running"]
        found.memory = dict(zip(running, pool.map(lambda identifier: memory_used(engine, identifier), running), strict=True))
        found.images = dict(zip(wanted, images, strict=True))
    for container in sorted(inspected, key=lambda container: container["State"]["Status"] != "running"):
        labels = (container.get("Config") or {}).get("Labels") or {}
        found.containers.setdefault(labels.get(plan.SERVICE, ""), []).append(container)
    return found


# --- Services, jobs and ports


def health_of(state: dict) -> tuple[str | None, str]:
    """Return a container's health and what its healthcheck said last: `none` for one without a healthcheck, None for one that does not run."""
    if state["Status"] != "running":
        return None, ""
    health = state.get("Health") or {}
    log = health.get("Log") or []
    return health.get("Status") or "none", plain(log[-1].get("Output", "")) if log else ""


def service_of(name: str, reference: str | None, seen: Observed, now: float) -> dict[str, Any]:
    """Return one service's row."""
    container = seen.of(name)
    wanted = seen.images.get(reference or "")
    row: dict[str, Any] = {"name": name, "state": "missing", "health": None, "health_output": "", "container": None, "image": reference, "image_id": None}
    row |= {"image_wanted": wanted, "image_matches": None, "started": None, "up_seconds": None, "exit_code": None, "error": ""}
    row |= {"restarts": 0, "oom_killed": False, "oom_kills": None, "memory_bytes": None, "memory_limit_bytes": None}
    if container is None:
        return row
    state = container["State"]
    running = state["Status"] == "running"
    started = seconds_of(state.get("StartedAt"))
    health, output = health_of(state)
    limit = (container.get("HostConfig") or {}).get("Memory") or None
    return row | {
        "state": state["Status"],
        "health": health,
        "health_output": output,
        "container": container.get("Name", "").lstrip("/") or container["Id"],
        "image_id": container["Image"],
        "image_matches": container["Image"] == wanted,
        "started": moment(started) if started else None,
        "up_seconds": max(int(now - started), 0) if running and started else None,
        "exit_code": state.get("ExitCode") if state["Status"] in ENDED else None,
        "error": plain(state.get("Error") or ""),
        "restarts": container.get("RestartCount", 0),
        "oom_killed": bool(state.get("OOMKilled")),
        "oom_kills": host.oom_kills(state["Pid"]) if running and state.get("Pid") else None,
        "memory_bytes": seen.memory.get(container["Id"]),
        "memory_limit_bytes": limit,
    }


def job_of(name: str, seen: Observed) -> dict[str, Any]:
    """Return one job's row."""
    container = seen.of(name)
    if container is None:
        return {"name": name, "state": "missing", "exit_code": None, "finished": None}
    state = container["State"]
    finished = seconds_of(state.get("FinishedAt"))
    ended = state["Status"] == "exited"
    return {"name": name, "state": state["Status"], "exit_code": state.get("ExitCode") if ended else None, "finished": moment(finished) if finished else None}


def ports_of(wanted: dict[str, list], seen: Observed) -> list[dict[str, Any]]:
    """Return the ports of the host that the release gives to services, each with whether it is published so and accepts connections."""
    rows = []
    for service, places in sorted(wanted.items()):
        container = seen.of(service) or {}
        bindings = ((container.get("NetworkSettings") or {}).get("Ports") or {}).values()
        published = {(binding.get("HostIp"), str(binding.get("HostPort"))) for bound in bindings for binding in bound or []}
        for address, port in places:
            there = (address, str(port)) in published
            rows.append(
                {"service": service, "address": address, "port": int(port), "published": there, "accepts": host.accepts(address, int(port)) if there else None}
            )
    return rows


# --- Files that containers mount


def _problems_of_config(path: str, _consumers: list[Consumer]) -> list[str]:
    """Return what is wrong with a config file, whose directory is named after the digest of its content; raise OSError."""
    return [] if manifest.is_as_written(path) else ["was changed by hand: its content is not that of the release"]


@dataclass(frozen=True)
class Consumer:
    """A container that mounts a file of the host."""

    service: str
    # The user that its processes run as, as the Compose file names it.
    user: str
    # Of a process of it, 0 where it does not run.
    pid: int
    target: str

    def has_other_content(self, content: bytes) -> bool:
        """Return whether the container has other bytes under the file's name: one that was replaced is mounted as it was until the container starts again."""
        return plan.holds_other(self.pid, self.target, content)


def mounted(seen: Observed) -> dict[str, list[Consumer]]:
    """Return the containers that mount a file of the host, by its path."""
    found: dict[str, list[Consumer]] = {}
    for service, containers in seen.containers.items():
        for container in containers:
            user = ((container.get("Config") or {}).get("User") or "").partition(":")[0]
            for mount in container.get("Mounts") or []:
                if mount.get("Type") == "bind":
                    consumer = Consumer(service, user, container["State"].get("Pid") or 0, mount.get("Destination", ""))
                    found.setdefault(mount.get("Source", ""), []).append(consumer)
    return found


def _stale(path: str, consumers: list[Consumer]) -> list[str]:
    """Return the services that still have the content of a file that was replaced; raise OSError. Contents are compared, and not told."""
    with open(path, "rb") as file:
        content = file.read()
    return sorted({consumer.service for consumer in consumers if consumer.has_other_content(content)})


def _problems_of_secret(path: str, consumers: list[Consumer]) -> list[str]:
    """Return what is wrong with a secret file; raise OSError."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        return ["is not a file"]
    problems = []
    mode = stat.S_IMODE(status.st_mode)
    if mode != 0o400:
        problems.append(f"has the mode {mode:04o}, not 0400")
    # Compose files give each consumer a numeric user, which the file belongs to.
    wrong = sorted({consumer.user for consumer in consumers if consumer.user.isdigit() and int(consumer.user) != status.st_uid})
    if wrong:
        problems.append(f"belongs to the user {status.st_uid}, not to {wrong[0]}, who reads it")
    return problems


def file_drift(directory: str, written: dict[str, Any], seen: Observed) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return a row for every config or secret file that is not as the release has it, and what could not be looked at. No content is in either."""
    rows: list[dict[str, Any]] = []
    unknown: list[dict[str, str]] = []
    consumers = mounted(seen)

    def look(kind: str, name: str, problems_of: Any) -> None:
        path = os.path.join(directory, name)
        used = consumers.get(path, []) or consumers.get(os.path.realpath(path), [])
        stale: list[str] = []
        try:
            problems = problems_of(path, used)
            if not problems:
                stale = _stale(path, used) if used else []
        except (FileNotFoundError, NotADirectoryError):
            problems = ["is missing"]
        except OSError as error:
            unknown.append({"what": kind, "why": f"{path}: {error.strerror}"})
            return
        rows.extend({"service": used[0].service if used else None, "kind": kind, "what": f"{name} {problem}"} for problem in problems)
        rows.extend(
            {"service": service, "kind": "stale", "what": f"{name} was replaced after it started, so that it still has the old content"} for service in stale
        )

    for name in written.get("configs", []):
        look("config", name, _problems_of_config)
    for name in written.get("secrets", []):
        look("secret", name, _problems_of_secret)
    if written.get("secrets"):
        look("secret", "secrets", lambda path, _used: _problems_of_directory(path))
    for path, meant in sorted(links.stale(directory, written).items()):
        rows.append({"service": None, "kind": "secret", "what": f"{os.path.relpath(path, directory)} does not point to {meant}"})
    for path in [*written.get("compose_files", []), *([written["env_file"]] if written.get("env_file") else [])]:
        if not os.path.isfile(path):
            rows.append({"service": None, "kind": "release", "what": f"{os.path.relpath(path, os.path.realpath(directory))} is missing"})
    return rows, unknown


def _problems_of_directory(path: str) -> list[str]:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    return [] if mode == 0o700 else [f"has the mode {mode:04o}, not 0700"]


# --- Containers that differ from the release


def compose_config(socket: str, directory: str, written: dict[str, Any], *arguments: str) -> str | None:
    """Return what `docker compose config` prints of a release, None where it cannot be asked."""
    command = config_command(socket, directory, written["project"], written["compose_files"], written["env_file"] or "/dev/null", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPOSE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def service_hashes(socket: str, directory: str, release: str, written: dict[str, Any], compose: str | None) -> dict[str, str] | None:
    """Return the hashes of the definitions of a release's services: as the deploy wrote them down for this version of Compose, or as Compose says now."""
    asked, hashes = noted_hashes(host.read(os.path.join(release, HASHES)))
    if compose and asked == compose:
        return hashes
    printed = compose_config(socket, directory, written, "--hash", "*")
    return hashes_of(printed) if printed else None


def definitions_of(socket: str, directory: str, release: str) -> dict[str, Any] | None:
    """Return the definitions of a release's services by the directory of its files, None where they cannot be read."""
    try:
        printed = compose_config(socket, directory, manifest.read(os.path.join(release, manifest.NAME)), "--format", "json")
        return json.loads(printed)["services"] if printed else None
    except (manifest.ManifestError, ValueError, KeyError, TypeError):
        return None


def container_drift(engine: Engine, directory: str, written: dict[str, Any], seen: Observed, hashes: dict[str, str] | None) -> list[dict[str, Any]]:
    """Return a row for every container that is not as the release has it, as a plan sees it; raise EngineError.

    Without ``hashes`` definitions are not compared: each container is taken to be of the one that it has.
    """
    known = {*written["services"], *written["jobs"], *written["first_jobs"], *written["last_jobs"]}
    if hashes is None:
        labels = {service: ((seen.of(service) or {}).get("Config") or {}).get("Labels") or {} for service in known}
        hashes = {service: found.get(plan.CONFIG_HASH, "") for service, found in labels.items()}
    wanted = plan.Wanted(written["project"], os.path.dirname((written["compose_files"] or [""])[0]), written["images"], hashes, written["networks"])
    changes = plan.compute(engine, wanted, functools.cache(functools.partial(definitions_of, engine.socket_path, directory)))
    rows = [{"service": change.service or None, "kind": KINDS[change.action], "what": "; ".join(change.reasons)} for change in changes]
    for service in written["services"]:
        name = (seen.of(service) or {}).get("Name", "").lstrip("/")
        if obstacles.TEMPORARY.match(name):
            rows.append({"service": service, "kind": "name", "what": f"its container is {name}, a temporary name that a deploy left which was killed"})
        reference = written["images"].get(service)
        if name and reference and seen.images.get(reference) is None:
            rows.append({"service": service, "kind": "image", "what": f"its image {reference} is no longer among the Engine's images"})
    return rows


# --- Volumes and file systems


def volumes_of(engine: Engine, project: str, *, sizes: bool) -> list[dict[str, Any]]:
    """Return name, path and size of the project's volumes. Sizes are None unless asked for: the Engine reads every file for them."""
    listed = engine.get("/volumes", filters=json.dumps({"label": [f"{PROJECT}={project}"]})).get("Volumes") or []
    measured: dict[str, int | None] = {}
    if sizes:
        # That takes as long as the volumes are large.
        usage = Engine(engine.socket_path, timeout=600).get("/system/df").get("Volumes") or []
        measured = {volume["Name"]: (volume.get("UsageData") or {}).get("Size") for volume in usage}
    # The Engine says -1 where it does not know.
    known = {name: size for name, size in measured.items() if size is not None and size >= 0}
    return [
        {"name": volume["Name"], "path": volume.get("Mountpoint") or "", "size_bytes": known.get(volume["Name"]), "mount": None}
        for volume in sorted(listed, key=lambda volume: volume["Name"])
    ]


def filesystems_of(places: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the file systems that places lie on, by what they hold, and the mount point of each place. ``places`` are paths by what is there."""
    rows: dict[int, dict[str, Any]] = {}
    mounts: dict[str, str] = {}
    for what, path in places.items():
        there = path
        # What is not there yet would be created on the file system of the nearest directory that is.
        while (found := host.filesystem(there)) is None and there not in ("", "/"):
            there = os.path.dirname(there)
        if found is None:
            continue
        mounts[what] = found["mount"]
        row = rows.setdefault(found["device"], {"mount": found["mount"], "holds": [], "bytes": _share(found["bytes"]), "inodes": _share(found["inodes"])})
        row["holds"].append(what)
    return list(rows.values()), mounts


def _share(counted: dict[str, int] | None) -> dict[str, Any] | None:
    """Return used, free and the used share in percent, as `df` counts it."""
    if counted is None:
        return None
    total = counted["used"] + counted["free"]
    return {**counted, "percent": round(100 * counted["used"] / total, 1) if total else 100.0}


# --- Certificates and metrics


def certificates_of(checks: Iterable[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    """Return the certificates that the release serves, each with its end and the days until then."""
    rows: dict[str, dict[str, Any]] = {}
    for check in checks:
        text = check.get("certificate")
        if not text or text in rows:
            continue
        row: dict[str, Any] = {"service": check.get("service"), "server_name": check.get("server_name"), "expires": None, "days": None, "error": None}
        try:
            end = certificate.expiry(text).timestamp()
            row |= {"expires": moment(end), "days": int((end - now) // 86400)}
        except certificate.CertificateError as error:
            row["error"] = str(error)
        rows[text] = row
    return list(rows.values())


def metric_of(engine: Engine, row: dict[str, Any], seen: Observed) -> dict[str, Any]:
    """Run a metric's command in its service's container, and return the number that it prints with what that is measured by.

    A second number that it prints is the limit of the first.
    """
    shown = {name: row.get(name) for name in ("service", "name", "limit", "expect", "remedy")}
    result = {**shown, "value": None, "error": None}
    container = seen.of(row["service"])
    if container is None or container["State"]["Status"] != "running":
        return {**result, "error": "the service does not run"}
    try:
        ended = engine.execute(container["Id"], row["command"], {}, METRIC_SECONDS)
    except EngineTimeout:
        return {**result, "error": f"the command did not end within {METRIC_SECONDS} s"}
    except EngineError as error:
        return {**result, "error": plain(error.reason)}
    numbers = ended.stdout.split()
    if ended.status != 0 or len(numbers) not in (1, 2) or not all(_NUMBER.match(number) for number in numbers):
        return {**result, "error": f"exit code {ended.status}: {plain(ended.output) or 'no output'}"}
    value, *limit = [float(number) for number in numbers]
    return {**result, "value": value, "limit": limit[0] if limit else row.get("limit")}


# --- All of it


def engine_of(engine: Engine) -> dict[str, Any]:
    """Return what the Engine says of itself; raise EngineError."""
    version, info = engine.get("/version"), engine.get("/info")
    return {"version": version["Version"], "api_version": version["ApiVersion"], "data_root": info["DockerRootDir"]}


def machine() -> dict[str, Any]:
    """Return what the machine says of itself."""
    return {"name": socket.gethostname(), "memory": host.memory(), "clock_synchronised": host.is_clock_synchronised(), "dns": host.dns()}


def _of_the_engine(engine: Engine, directory: str, written: dict[str, Any], compose: str | None, *, sizes: bool, now: float) -> tuple[dict[str, Any], Observed]:
    """Return the parts of the status that only the Engine knows; raise EngineError."""
    project = written["project"]
    found: dict[str, Any] = {"engine": engine_of(engine)}
    if not project:
        return found, Observed()
    seen = observe(engine, project, written["images"].values())
    hashes = service_hashes(engine.socket_path, directory, os.path.dirname(written["compose_files"][0]), written, compose) if written["compose_files"] else None
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        metrics = list(pool.map(lambda row: metric_of(engine, row, seen), written["metrics"]))
    found |= {
        "services": [service_of(name, written["images"].get(name), seen, now) for name in written["services"]],
        "jobs": [job_of(name, seen) for name in written["jobs"]],
        "ports": ports_of(written["ports"], seen),
        "volumes": volumes_of(engine, project, sizes=sizes),
        "metrics": metrics,
        "drift": container_drift(engine, directory, written, seen, hashes),
        "not_known": [] if hashes else [{"what": "definition", "why": "Docker Compose does not say what the definitions of the release's services are."}],
    }
    return found, seen


def gather(engine: Engine, directory: str, *, sizes: bool, now: float) -> dict[str, Any]:
    """Return the status of the stack below a directory. ``now`` is the time in seconds since 1970."""
    current, written = release_of(directory, "current")
    attempted, tried = release_of(directory, "attempted")
    # A first deploy that failed left no current release, and what it started is worth knowing all the more.
    written = written or tried or {**manifest.empty()}
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "at": moment(now),
        "directory": directory,
        "project": written["project"],
        "release": current,
        "attempted": attempted,
        "lock": lock_of(directory),
        "unfinished": lock.unfinished(directory),
        "history": history_of(directory),
        "kept": kept(directory, current["id"] if current else None),
        "host": machine(),
        "engine": None,
        "engine_error": None,
        "compose": host.tool_version("docker", "compose", "version", "--short"),
        **{part: [] for part in ("services", "jobs", "ports", "volumes", "metrics", "drift")},
        "certificates": certificates_of(written["checks"], now),
        "backup": state.summary(directory, now),
        "not_known": [],
    }
    seen = Observed()
    try:
        asked, seen = _of_the_engine(engine, directory, written, found["compose"], sizes=sizes, now=now)
        found.update(asked)
    except EngineError as error:
        found["engine_error"] = plain(error)
        found["not_known"].append({"what": "services", "why": "The Docker Engine did not answer."})
    drift, unknown = file_drift(directory, written, seen)
    found["drift"] = found["drift"] + drift
    found["not_known"] += unknown
    root = found["engine"]["data_root"] if found["engine"] else "/var/lib/docker"
    places = {"the Engine's data": root, "the stack's directory": directory}
    places |= {f"volume {volume['name']}": volume["path"] for volume in found["volumes"] if volume["path"]}
    found["filesystems"], mounts = filesystems_of(places)
    for volume in found["volumes"]:
        volume["mount"] = mounts.get(f"volume {volume['name']}")
    return found
