# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of stacks that are really deployed have in common."""

import subprocess
from dataclasses import dataclass


@dataclass
class Result:
    """How something ended; ``text`` is what it printed, on one line."""

    status: int
    text: str


def docker(*arguments: str, check: bool = True, stdin: str | None = None, seconds: float = 120) -> str:
    """Return what Docker's client prints; fail where it does not end well, unless ``check`` is false, or within ``seconds``."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, input=stdin)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
