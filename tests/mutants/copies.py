# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the repository, for mistakes that the checkout must not see."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_to(directory: Path) -> None:
    """Copy the files of the repository, and make the copy one of its own, because some tests ask git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        source, target = ROOT / name, directory / name
        if name and (source.is_file() or source.is_symlink()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet"], cwd=directory, check=True)
    subprocess.run(["git", "add", "--all"], cwd=directory, check=True)
