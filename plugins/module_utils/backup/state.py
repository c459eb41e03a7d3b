# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a stack's backups: a file on the host that the program writes and that status and doctor read, and those who are told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

DIRECTORY, STATUS, CONFIG, LOG = "backup", "status.json", "config.json", "wal.json"
# Below the directory, what reads another repository than the one that backups are made in.
OTHER = "other"
# From this age on, what was shipped last of PostgreSQL's log is late.
LOG_SECONDS = 300
# So much later than the clock is nothing that it says.
AHEAD_SECONDS = 300
SCHEMA = 1
HOOK_SECONDS = 60
CRONTABS, UNITS = "/etc/cron.d", "/etc/systemd/system"
# What reads crontabs, of these the last is a part of systemd-cron.
CRONS = ("cron", "crond", "/usr/lib/systemd/system-generators/systemd-crontab-generator")
NO_CRON = f"Neither cron nor crond is on the host, so nobody reads {CRONTABS}, and nothing calls the backup"
_EMPTY: dict[str, Any] = {
    "schema": SCHEMA,
    "installed": None,
    "last_run": None,
    "last_success": None,
    "last_drill": None,
    "last_good_drill": None,
    "last_moment_drill": None,
    "last_good_moment_drill": None,
    "last_restore": None,
    "sets": None,
    "newest_set": None,
}


def path_of(directory: str, name: str) -> str:
    """Return the path of a file of the backup below a stack's directory."""
    return os.path.join(directory, DIRECTORY, name)


def seconds_since(text: str | None, now: float) -> int | None:
    """Return the seconds since a time in UTC as the program writes it, None for none."""
    with contextlib.suppress(ValueError, TypeError):
        return max(int(now - _seconds(text or "")), 0)
    return None


def _seconds(text: str, spelling: str = "%Y-%m-%dT%H:%M:%SZ") -> float:
    import calendar

    return calendar.timegm(time.strptime(text, spelling))


def ahead(newest: str | None, now: float) -> str | None:
    """Return what is wrong where the set that counts as the newest one is of a time that the clock has not come to, None where it is not."""
    with contextlib.suppress(ValueError):
        began = _seconds((newest or "").partition("-")[0], "%Y%m%dT%H%M%SZ")
        if began - now > AHEAD_SECONDS:
            return (
                f"The set {newest} counts as the latest one, and its time is {int(began - now)} s ahead of this host's clock, which was wrong then or is wrong "
                "now. Sets are made, and until that time a restore and a drill that name no set take that one."
            )
    return None


def _loaded(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file whole."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(directory: str) -> dict[str, Any]:
    """Return what is known, with all keys; `log` is what is known of PostgreSQL's log, which is written by who ships it."""
    return {**_EMPTY, **(_loaded(path_of(directory, STATUS)) or {}), "log": _loaded(path_of(directory, LOG))}


def update(directory: str, **rows: Any) -> dict[str, Any]:
    """Write down what is new, and return all of it."""
    found = {**read(directory), **rows}
    kept = {name: row for name, row in found.items() if name != "log"}
    write(path_of(directory, STATUS), json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return found


def has_cron() -> bool:
    """Return whether the host has a program that reads crontabs. A directory for these is made by other packages, too."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    return any(shutil.which(name, path=path) for name in CRONS)


def uncalled(project: str) -> str | None:
    """Return why a stack's schedule is not kept, None where it is, or where there is none."""
    if os.path.lexists(f"{CRONTABS}/{project}-backup") and not has_cron():
        return f"{NO_CRON}."
    name = f"{project}-backup.timer"
    if os.path.lexists(f"{UNITS}/{name}") and not os.path.lexists(f"{UNITS}/timers.target.wants/{name}"):
        return f"The timer {name} is not enabled, so nothing calls the backup."
    return None


def _look_at_drill(drill: Mapping[str, Any], add: Callable[[str, str, str], None]) -> None:
    """Add what is wrong with the set of a drill, and what could not be brought back and is no damage of it."""
    if drill.get("result") != "ok":
        add("drill failed", "failure", f"The set {drill.get('set')} did not come back whole in the drill of {drill.get('at')}: {drill.get('error')}")
    for text in drill.get("remarks") or []:
        add("not brought back", "warning", text)


def findings(found: Mapping[str, Any], config: Mapping[str, Any], now: float, why_uncalled: str | None = None) -> list[dict[str, str]]:
    """Return what is wrong with a stack's backups, each with name, severity and what is seen. ``why_uncalled`` says why its schedule is not kept."""
    rows: list[dict[str, str]] = []

    def add(name: str, severity: str, seen: str) -> None:
        rows.append({"name": name, "severity": severity, "seen": seen})

    def look_at(what: str, last: Mapping[str, Any] | None, is_there: bool) -> None:
        good = seconds_since((last or {}).get("at"), now)
        if good is None and is_there:
            add("never restored", "warning", f"No {what} was ever brought back and compared, so nobody knows whether one can be.")
        elif good is not None and good > 86400 * float(config.get("drill_days") or 8):
            add("drill late", "warning", f"The last {what} that came back whole in a drill is {good // 86400} days old.")

    if why_uncalled:
        add("nothing calls it", "failure", why_uncalled)
    run = found["last_run"]
    if run and run.get("result") != "ok":
        add("backup failed", "failure", f"The backup of {run.get('ended') or run.get('started')} failed: {run.get('error')}")
    success = found["last_success"] or {}
    since = success.get("moment") or found["installed"]
    age, late = seconds_since(since, now), 3600 * float(config.get("late_hours") or 26)
    if age is None or age > late:
        what = f"of {success['moment']}" if success else "not there"
        add("backup late", "failure", f"The last backup is {what}, and one is expected every {late / 3600:g} hours.")
    if found["last_drill"]:
        _look_at_drill(found["last_drill"], add)
    look_at("set", found["last_good_drill"], bool(success))
    if wrong := ahead(found.get("newest_set"), now):
        add("clock wrong", "warning", wrong)
    log = found.get("log") or {}
    covered, has_base = log.get("covered"), (log.get("base") or {}).get("line") == log.get("line")
    if config.get("point_in_time"):
        # Until one can be brought back, that is what is told.
        look_at("moment", found["last_good_moment_drill"], bool(covered) and has_base)
    tried = found["last_moment_drill"]
    if tried and tried.get("result") != "ok":
        add("drill failed", "failure", f"The moment {tried.get('moment')} did not come back in the drill of {tried.get('at')}: {tried.get('error')}")
    if config.get("point_in_time"):
        installed = seconds_since(found["installed"], now) or 0
        why = f": {log['error']}" if log.get("error") else "."
        if covered and now - covered > LOG_SECONDS:
            add("log late", "failure", f"What was written in the last {int(now - covered)} s could not be brought back to its moment{why}")
        elif not (covered and has_base) and installed > LOG_SECONDS:
            add("log late", "failure", f"No moment can be brought back yet{why}")
    return rows


def place_of(directory: str) -> str | None:
    """Return the repository that a stack's backups were set up to be made in, None where none were set up."""
    config, found = _loaded(path_of(directory, CONFIG)) or {}, read(directory)
    # Without a repository, the program is there for an export only. A restore that nobody has confirmed has a configuration written too, and backups are
    # not set up by it.
    is_set_up = any(found[name] for name in ("installed", "last_run", "last_success"))
    return (config.get("repository") or None) if is_set_up else None


def summary(directory: str, now: float) -> dict[str, Any] | None:
    """Return what a stack's status tells of its backups, None where none were set up."""
    config, found = _loaded(path_of(directory, CONFIG)), read(directory)
    if not config or not place_of(directory):
        return None
    good, success = found["last_good_drill"] or {}, found["last_success"] or {}
    moment = (found["last_good_moment_drill"] or {}) if config.get("point_in_time") else {}
    return {
        "repository": config.get("repository"),
        "last_run": found["last_run"],
        "last_success": found["last_success"],
        "age_seconds": seconds_since(success.get("moment"), now),
        "last_drill": found["last_drill"],
        "drill_age_seconds": seconds_since(good.get("at"), now),
        "recovery_seconds": good.get("seconds"),
        "moment_drill_age_seconds": seconds_since(moment.get("at"), now),
        "moment_recovery_seconds": moment.get("seconds"),
        "sets": found["sets"],
        "log": found["log"] if config.get("point_in_time") else None,
        "now": now,
        "findings": findings(found, config, now, uncalled(config["project"])),
    }


def metrics(found: Mapping[str, Any], project: str) -> str:
    """Return what Prometheus' node exporter reads from a text file."""
    run, success, drill, good = (found[name] or {} for name in ("last_run", "last_success", "last_drill", "last_good_drill"))

    def at(text: str | None) -> float:
        with contextlib.suppress(ValueError):
            return _seconds(text or "")
        return 0

    rows = {
        "last_success_timestamp_seconds": ("Moment of the last whole set.", at(success.get("moment"))),
        "last_run_failed": ("Whether the last backup failed.", int(bool(run) and run.get("result") != "ok")),
        "last_duration_seconds": ("How long the last whole backup took.", success.get("seconds") or 0),
        "size_bytes": ("What the last whole set holds.", success.get("bytes") or 0),
        "last_good_drill_timestamp_seconds": ("When a set last came back whole.", at(good.get("at"))),
        "last_drill_failed": ("Whether the last drill failed.", int(bool(drill) and drill.get("result") != "ok")),
        "recovery_seconds": ("How long it took to bring the last set back and compare it.", good.get("seconds") or 0),
    }
    if log := found.get("log"):
        tried = found["last_good_moment_drill"] or {}
        rows["log_shipped_timestamp_seconds"] = ("Until when all that PostgreSQL committed is in the repository.", log.get("covered") or 0)
        rows["last_good_moment_drill_timestamp_seconds"] = ("When a moment last came back in a drill.", at(tried.get("at")))
        rows["moment_recovery_seconds"] = ("How long it took to bring the last moment back and read all of it.", tried.get("seconds") or 0)
    lines = []
    for name, (text, value) in rows.items():
        full = f"campaign_backup_{name}"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} gauge", f'{full}{{project="{project}"}} {round(value, 1)}']
    return "\n".join(lines) + "\n"


def publish(config: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Write the metrics where they are asked for; a directory that is gone is no reason for a backup to fail."""
    target = config.get("prometheus_directory")
    if target:
        with contextlib.suppress(OSError):
            write(os.path.join(target, f"{config['project']}_backup.prom"), metrics(found, config["project"]))


def tell(config: Mapping[str, Any], event: str, message: str) -> str | None:
    """Call the hook with an event and a message, and return why that failed, None where it did not or where there is none.

    ``event`` is a word, ``message`` says what happened and holds no secret. Both come as arguments and, with the project, as JSON on standard input.
    """
    hook = config.get("hook")
    if not hook:
        return None
    text = json.dumps({"project": config["project"], "event": event, "message": message})
    try:
        done = subprocess.run([*hook, event, message], input=text.encode(), capture_output=True, timeout=HOOK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"the hook did not end within {HOOK_SECONDS} s"
    except OSError as error:
        return f"the hook does not run: {error.strerror}"
    return None if done.returncode == 0 else f"the hook ended with exit code {done.returncode}"


_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_TIME = re.compile(rf"(?:({'|'.join(_WEEKDAYS)}) )?([01]\d|2[0-3]):([0-5]\d)\Z")


def parsed_time(text: str) -> tuple[str | None, int, int]:
    """Return weekday (None for each day), hour and minute of a time such as `02:30` or `Sun 04:00`; raise ValueError."""
    found = _TIME.match(text)
    if not found:
        raise ValueError(text)
    return found[1], int(found[2]), int(found[3])


def on_calendar(text: str) -> str:
    """Return a time as systemd spells it."""
    day, hour, minute = parsed_time(text)
    return f"{day + ' ' if day else ''}*-*-* {hour:02d}:{minute:02d}:00"


def in_crontab(text: str) -> str:
    """Return a time as cron spells it."""
    day, hour, minute = parsed_time(text)
    return f"{minute} {hour} * * {day.lower() if day else '*'}"
