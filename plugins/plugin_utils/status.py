# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of a stack as a person reads it, as text and as a page, and answers to questions about it. modules/status.py says what is in it."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Status = Mapping[str, Any]
_ABSENT = "-"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class QueryError(Exception):
    """A question cannot be asked; the text says why."""


@dataclass(frozen=True)
class Cell:
    """What stands in a table, and whether it is as it should be."""

    text: str
    is_bad: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of one kind."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def size(value: int | None) -> str:
    """Return a number of bytes as a person reads it."""
    if value is None:
        return _ABSENT
    number, unit = float(value), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if unit == 0 or number >= 10 else f"{number:.1f} {_UNITS[unit]}"


def span(seconds: float | None) -> str:
    """Return a length of time in its largest unit."""
    if seconds is None:
        return _ABSENT
    length, unit = next(((length, unit) for length, unit in _SPANS if seconds >= length), _SPANS[-1])
    return f"{int(seconds // length)} {unit}"


def when(text: str | None) -> str:
    """Return a time of the status as a person reads it."""
    return text.replace("T", " ").replace("Z", " UTC") if text else _ABSENT


def number(value: float | None) -> str:
    """Return a number without digits that say nothing."""
    return _ABSENT if value is None else f"{value:g}"


def image_of(service: Status) -> Cell:
    """Return a service's image: its reference, the beginning of the id that runs, and whether that is what the reference stands for."""
    running = str(service["image_id"] or "").removeprefix("sha256:")[:12]
    text = f"{service['image'] or _ABSENT} {running}".strip()
    if service["image_matches"] is False:
        return Cell(f"{text}, not what the reference stands for" if service["image_wanted"] else f"{text}, which is no longer on the host", is_bad=True)
    return Cell(text)


def _memory(service: Status) -> Cell:
    used, limit = service["memory_bytes"], service["memory_limit_bytes"]
    share = f" of {size(limit)}" if limit and used is not None else ""
    killed = service["oom_killed"] or service["oom_kills"]
    return Cell(f"{size(used)}{share}{', killed for want of memory' if killed else ''}", is_bad=bool(killed))


def _health(service: Status) -> Cell:
    said = f": {service['health_output']}" if service["health"] == "unhealthy" and service["health_output"] else ""
    return Cell(f"{service['health'] or _ABSENT}{said}", is_bad=service["health"] not in ("healthy", "starting"))


def _state(service: Status) -> Cell:
    code = "" if service["exit_code"] is None else f" ({service['exit_code']})"
    return Cell(f"{service['state']}{code}", is_bad=service["state"] != "running")


def _services(status: Status) -> Table:
    rows = [
        [
            Cell(service["name"]),
            _state(service),
            _health(service),
            Cell(span(service["up_seconds"])),
            Cell(str(service["restarts"]), is_bad=service["restarts"] > 0),
            _memory(service),
            image_of(service),
        ]
        for service in status["services"]
    ]
    return Table("Services", ("Service", "State", "Health", "Up", "Restarts", "Memory", "Image"), rows)


def _jobs(status: Status) -> Table:
    def verdict(job: Status) -> Cell:
        if job["state"] == "missing":
            return Cell("no container")
        return Cell(job["state"] if job["exit_code"] is None else f"ended with exit code {job['exit_code']}", is_bad=bool(job["exit_code"]))

    return Table("Jobs", ("Job", "Last run", "Ended"), [[Cell(job["name"]), verdict(job), Cell(when(job["finished"]))] for job in status["jobs"]])


def _ports(status: Status) -> Table:
    def verdict(port: Status) -> Cell:
        if not port["published"]:
            return Cell("not published", is_bad=True)
        return Cell("open" if port["accepts"] else "published, but refuses connections", is_bad=not port["accepts"])

    rows = [[Cell(port["service"]), Cell(f"{port['address']}:{port['port']}"), verdict(port)] for port in status["ports"]]
    return Table("Ports", ("Service", "Address", "Port"), rows)


def _shares(counted: Mapping[str, Any] | None, shown: str) -> Cell:
    return Cell(_ABSENT) if counted is None else Cell(f"{shown}{counted['percent']:g} %")


def _filesystems(status: Status) -> Table:
    rows = [
        [
            Cell(row["mount"]),
            _shares(row["bytes"], f"{size(row['bytes']['used'])} of {size(row['bytes']['used'] + row['bytes']['free'])}, "),
            _shares(row["inodes"], ""),
            Cell(", ".join(row["holds"])),
        ]
        for row in status["filesystems"]
    ]
    return Table("File systems", ("File system", "Used", "Inodes", "Holds"), rows)


def _volumes(status: Status) -> Table:
    rows = [[Cell(volume["name"]), Cell(size(volume["size_bytes"])), Cell(volume["mount"] or _ABSENT)] for volume in status["volumes"]]
    return Table("Volumes", ("Volume", "Size", "File system"), rows)


def _metrics(status: Status) -> Table:
    def value(metric: Status) -> Cell:
        if metric["error"]:
            return Cell(f"not known: {metric['error']}")
        return Cell(number(metric["value"]) + (f" of {number(metric['limit'])}" if metric["limit"] is not None else ""))

    return Table("Metrics", ("Service", "Metric", "Value"), [[Cell(metric["service"]), Cell(metric["name"]), value(metric)] for metric in status["metrics"]])


def _certificates(status: Status) -> Table:
    rows = [
        [Cell(row["server_name"] or _ABSENT), Cell(row["error"] or f"{when(row['expires'])}, in {row['days']} d", is_bad=bool(row["error"]) or row["days"] < 0)]
        for row in status["certificates"]
    ]
    return Table("Certificates", ("Name", "Valid until"), rows)


def _drift(status: Status) -> Table:
    rows = [[Cell(row["service"] or _ABSENT), Cell(row["kind"]), Cell(row["what"], is_bad=True)] for row in status["drift"]]
    return Table("Drift: what is not as the release has it", ("Service", "Kind", "What"), rows)


def _unknown(status: Status) -> Table:
    return Table("Not known", ("What", "Why"), [[Cell(row["what"]), Cell(row["why"])] for row in status["not_known"]])


def tables(status: Status) -> list[Table]:
    """Return the status' tables that have rows."""
    made = (part(status) for part in (_services, _jobs, _ports, _metrics, _filesystems, _volumes, _certificates, _drift, _unknown))
    return [table for table in made if table.rows]


def who(row: Status) -> str:
    """Return who did something, and from where."""
    return f"{row['user'] or 'somebody'}@{row['controller']}" if row["controller"] else str(row["user"] or "somebody")


def _lock(held: Status) -> Cell:
    seen = f"last sign of life {span(held['age_seconds'])} ago"
    release = f" on release {held['release']}" if held["release"] else ""
    return Cell(f"{who(held)}, process {held['pid']}, works{release} since {when(held['since'])}, {seen}", is_bad=not held["is_alive"])


def _last(event: Status) -> Cell:
    commit = f", from commit {event['commit'][:12]}" if event["commit"] else ""
    release = f"release {event['release']} " if event["release"] else ""
    return Cell(f"{release}{str(event['event']).replace('_', ' ')}, by {who(event)}, {when(event['time'])}{commit}")


def _release(name: str, release: Status | None, since: str, verdict: str = "") -> Iterator[tuple[str, Cell]]:
    if release is None:
        return
    variant = f", {release['variant']}" if release["variant"] else ""
    told = f", {since} {when(release['since'])}" if release["since"] else ""
    yield name, Cell(f"{release['id'] or _ABSENT}{variant}{told}{verdict}")
    if release["error"]:
        yield "Error", Cell(release["error"], is_bad=True)


def facts(status: Status) -> list[tuple[str, Cell]]:
    """Return what is known of the whole, by name."""
    memory = status["host"]["memory"]
    rows = list(_release("Release", status["release"], "activated")) or [("Release", Cell("none is in use", is_bad=True))]
    works = status["lock"] and status["lock"]["is_alive"]
    rows += list(_release("Attempted", status["attempted"], "since", ", which is being deployed" if works else ": its deploy did not end with success"))
    if status["lock"]:
        rows.append(("Lock", _lock(status["lock"])))
    if status["unfinished"] and not works:
        rows.append(("Unfinished", Cell(f"{status['unfinished']['what']} {status['unfinished']['remedy']}", is_bad=True)))
    if status["history"]:
        rows.append(("Last", _last(status["history"][0])))
    rows.append(("Kept", Cell(", ".join(row["id"] for row in status["kept"]) or "no other release")))
    engine, compose = status["engine"], f"Compose {status['compose'] or 'not found'}"
    if engine:
        rows.append(("Engine", Cell(f"{engine['version']}, {compose}", is_bad=not status["compose"])))
    else:
        rows.append(("Engine", Cell(f"does not answer: {status['engine_error']}", is_bad=True)))
    if backup := status.get("backup"):
        rows.append(("Backup", _backup(backup)))
    if memory:
        rows.append(("Memory", Cell(f"{size(memory['available'])} of {size(memory['total'])} available")))
    if status["engine"] and not status["drift"] and status["release"]:
        rows.append(("Drift", Cell("none")))
    return rows


def _backup(backup: Status) -> Cell:
    """Return what is known of the backups: the newest set, and how long it took to bring one back."""
    made = f"the newest set is {span(backup['age_seconds'])} old" if backup["age_seconds"] is not None else "there is no set"
    tried = "none was ever brought back"
    if backup["drill_age_seconds"] is not None:
        tried = f"one was brought back {span(backup['drill_age_seconds'])} ago, in {span(backup['recovery_seconds'])}"
    log = (backup.get("log") or {}).get("covered")
    moments = [f"every moment until {span(max(int(backup['now'] - log), 0))} ago is kept"] if log else []
    if backup["moment_drill_age_seconds"] is not None:
        moments.append(f"one was brought back {span(backup['moment_drill_age_seconds'])} ago, in {span(backup['moment_recovery_seconds'])}")
    wrong = list(dict.fromkeys(row["name"] for row in backup["findings"]))
    return Cell("; ".join([made, tried, *moments, *wrong]), is_bad=bool(wrong))


def title(status: Status) -> str:
    """Return what the status is of."""
    return f"{status['project'] or status['directory']} on {status['host']['name']}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def lines(status: Status) -> list[str]:
    """Return the status as lines of text."""
    told = [f"{title(status)}, {when(status['at'])}", *_aligned([(name, cell.text) for name, cell in facts(status)])]
    for table in tables(status):
        heads = [] if table.title in table.columns or table.title.rstrip("s") in table.columns else [table.title]
        told += ["", *heads, *_aligned([list(table.columns), *([cell.text for cell in row] for row in table.rows)])]
    return told


# --- The page

# Nothing is fetched: no font, no script, no address.
_STYLE = """
:root { color-scheme: light dark; --line: #d0d4da; --bad: #b3261e; --text: #1b1f24; --back: #fff; --quiet: #57606a; }
@media (prefers-color-scheme: dark) { :root { --line: #3a4149; --bad: #ff8a80; --text: #e6e8eb; --back: #15181c; --quiet: #a5adb6; } }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.125rem; margin: 2rem 0 .5rem; } p { color: var(--quiet); margin: 0 0 1rem; }
div { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
thead th { color: var(--quiet); font-weight: 600; white-space: nowrap; } .bad { color: var(--bad); font-weight: 600; }
"""


def _html_cell(cell: Cell, tag: str = "td") -> str:
    scope = ' scope="row"' if tag == "th" else ""
    marked = ' class="bad"' if cell.is_bad else ""
    return f"<{tag}{scope}{marked}>{html.escape(cell.text)}</{tag}>"


def _html_table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    body = "\n".join(f"<tr>{_html_cell(row[0], 'th')}{''.join(_html_cell(cell) for cell in row[1:])}</tr>" for row in table.rows)
    caption = html.escape(table.title)
    return (
        f'<h2>{caption}</h2>\n<div tabindex="0" role="region" aria-label="{caption}"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table></div>"
    )


def page(status: Status) -> str:
    """Return the status as a page of HTML that needs nothing else, in the light and in the dark."""
    name = html.escape(title(status))
    summary = "\n".join(f"<tr>{_html_cell(Cell(key), 'th')}{_html_cell(cell)}</tr>" for key, cell in facts(status))
    parts = "\n".join(_html_table(table) for table in tables(status))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p>As of {html.escape(when(status["at"]))}. The page does not change by itself.</p>
<table><tbody>
{summary}
</tbody></table>
{parts}
</main>
</body>
</html>
"""


# --- Questions


def question(query: str) -> Callable[[Status], Any]:
    """Return a function that answers a question in JMESPath; both raise QueryError."""
    try:
        import jmespath
        from jmespath.exceptions import JMESPathError
    except ImportError:
        raise QueryError("needs the Python package jmespath on the machine that runs Ansible. Install it there: pip install jmespath.") from None

    def refused(error: Exception) -> QueryError:
        reason = " ".join(str(error).split())
        return QueryError(f"is not a question in JMESPath: {reason}. One is services[?health!='healthy'].name, see https://jmespath.org.")

    try:
        compiled = jmespath.compile(query)
    except JMESPathError as error:
        raise refused(error) from None

    def answer(status: Status) -> Any:
        try:
            return compiled.search(status)
        except JMESPathError as error:
            raise refused(error) from None

    return answer
