#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit each mounted source once and wait until the running stack shows it: `tests/hot_reload.py SOURCES API_URL PAGE_URL PROJECT`.

Prints one line a source with the seconds it took. Fails when an edit does not show within a generous limit; how fast is fast enough is
for the benchmark to say. Every file is put back as it was.
"""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

LIMIT_SECONDS = 30
NONCE = f"edited-{time.time_ns()}"


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        # Between two processes nobody listens.
        return ""


def logs(project: str, service: str) -> str:
    name = subprocess.run(
        ["docker", "ps", "-q", "-f", f"label=com.docker.compose.project={project}", "-f", f"label=com.docker.compose.service={service}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return subprocess.run(["docker", "logs", "--tail", "50", name], capture_output=True, text=True, check=True).stdout


def seconds_until_shown(file: Path, old: str, new: str, shows: Callable[[], bool]) -> float:
    original = file.read_text()
    if original.count(old) == 0:
        sys.exit(f"{file} has no {old!r} to edit")
    start = time.monotonic()
    try:
        file.write_text(original.replace(old, new))
        while not shows():
            if time.monotonic() - start > LIMIT_SECONDS:
                sys.exit(f"an edit of {file} did not show within {LIMIT_SECONDS} s")
            time.sleep(0.02)
        return time.monotonic() - start
    finally:
        file.write_text(original)
        time.sleep(3)


def main() -> None:
    sources, api, page, project = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    edits = {
        "api": ("api/src/health.controller.ts", 'status: "ok"', f'status: "{NONCE}"', lambda: NONCE in get(f"{api}/api/health/live")),
        "frontend": ("frontend/src/App.tsx", "<h1>Campaigns", f"<h1>{NONCE}", lambda: NONCE in get(f"{page}/src/App.tsx")),
    }
    for service, message in (("rules-engine", '"evaluating"'), ("scheduler", '"scheduling"')):
        edits[service] = (f"{service}/src/main.ts", message, f'"{NONCE}"', lambda service=service: NONCE in logs(project, service))
    edits["shared"] = (
        "shared/src/log.ts",
        "base: { service }",
        f'base: {{ service: "{NONCE}-shared" }}',
        lambda: f"{NONCE}-shared" in logs(project, "api"),
    )
    for name, (file, old, new, shows) in edits.items():
        print(f"{name:14} {seconds_until_shown(sources / 'packages' / file, old, new, shows):5.2f} s", flush=True)


main()
