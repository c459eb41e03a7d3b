# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

# Imported first, because it lets tests import the collection's plugins.
import program


def pytest_addoption(parser) -> None:
    parser.addoption("--full", action="store_true", help="run everything and no sample, which takes hours")


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out what runs with `--full` only, see `deployed.full_only`."""
    left_out = [] if config.getoption("--full") else [item for item in items if getattr(getattr(item, "function", None), "full_only", False)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def full(request) -> bool:
    return request.config.getoption("--full")


@pytest.fixture(scope="session")
def golden() -> dict[str, dict[str, str]]:
    """What a deploy would stage, by variant and name."""
    return {variant: program.golden(variant) for variant in program.VARIANTS}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """Every file that is in the repository, or will be with the next commit."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="session")
def texts(project_files) -> dict[str, str]:
    """The text files of the repository by their path in it."""
    found = {}
    for path in project_files:
        content = path.read_bytes()
        if b"\0" not in content:
            found[str(path.relative_to(ROOT))] = content.decode()
    return found
