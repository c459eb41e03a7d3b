# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user of the archive, who has no checkout, and ansible-builder find in it."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="module")
def archive(root, tmp_path_factory) -> Path:
    """The archive, unpacked."""
    target = tmp_path_factory.mktemp("archive")
    done = subprocess.run(["ansible-galaxy", "collection", "build", "--output-path", str(target)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.tar.gz")
    with tarfile.open(built) as tar:
        tar.extractall(target / "unpacked", filter="data")
    return target / "unpacked"


def names(path: Path) -> set[str]:
    """The packages that a requirements file asks for."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-"))]
    return {re.split(r"[\[=<>~! ]", line)[0].lower() for line in lines}


def test_links_of_packed_documents_lead_into_the_archive(archive):
    documents = sorted(archive.glob("**/*.md"))
    assert archive / "README.md" in documents
    for document in documents:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            path = link.partition("#")[0]
            if path and not re.match(r"[a-z]+\\?:", link):
                assert (document.parent / path).exists(), f"{document.relative_to(archive)}: {link} is not in the archive"


def test_what_runs_a_deploy_and_explains_it_is_packed(archive):
    assert {path.name for path in archive.iterdir() if path.is_dir()} == {
        "changelogs",
        "docs",
        "examples",
        "files",
        "inventories",
        "meta",
        "playbooks",
        "plugins",
        "roles",
    }


def test_ansible_builder_takes_what_the_collection_itself_needs(archive, root):
    definition = yaml.safe_load((archive / "meta/execution-environment.yml").read_text())
    python = archive / definition["dependencies"]["python"]
    assert (archive / definition["dependencies"]["system"]).is_file()
    imported = set()
    for path in sorted(root.glob("plugins/*/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    distributions = importlib.metadata.packages_distributions()
    needed = {
        distributions[name][0].lower()
        for name in imported - set(sys.stdlib_module_names)
        # Ansible brings the first three; the others are for a host's own Python.
        if name not in {"ansible", "ansible_collections", "yaml", "apt", "requests"}
    }
    assert {"botocore", "cryptography", "cyclonedx-python-lib"} <= needed
    assert needed <= names(python)
    assert names(root / "requirements.in") - {"ansible"} <= names(python)
    # Pins and hashes belong to one environment, not to everybody's.
    assert not re.search(r"==|--hash", python.read_text())
