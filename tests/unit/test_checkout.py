# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkout works wherever it lies and whatever the shell says: no playbook depends on ansible.cfg or on a variable of the environment."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

BARE = {"HOME": os.environ.get("HOME", "/"), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory) -> Path:
    """A copy of what is tracked, in a directory that others may write to, where Ansible reads no ansible.cfg."""
    copy = tmp_path_factory.mktemp("checkout") / "campaign"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in tracked:
        if name.startswith(("playbooks/", "roles/", "plugins/", "inventories/", "meta/", "collections/")) or (name and "/" not in name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name, follow_symlinks=False)
    copy.chmod(0o777)
    return copy


def run(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ansible-playbook", *arguments], cwd=directory, env=BARE | environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("playbook", "configured"),
    [("site.yml", False), ("playbooks/site.yml", False), ("playbooks/verify.yml", False), ("playbooks/verify.yml", True), ("playbooks/down.yml", True)],
)
def test_playbooks_find_the_roles_without_this_repository_s_configuration(checkout, tmp_path, playbook, configured):
    (tmp_path / "other.cfg").write_text("[defaults]\n")
    environment = {"ANSIBLE_CONFIG": str(tmp_path / "other.cfg")} if configured else {}
    done = run(checkout, "-i", "inventories/local", playbook, "--list-tasks", **environment)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "campaign.platform.stack : " in done.stdout


@pytest.mark.parametrize("playbook", ["site", "verify", "down"])
def test_without_an_inventory_one_sentence_says_so(checkout, playbook):
    done = run(checkout, f"playbooks/{playbook}.yml")
    assert done.returncode != 0
    assert "The inventory has no host in the group campaign" in " ".join((done.stdout + done.stderr).split())


def test_make_verify_asks_for_a_playbook_that_is_found(root):
    done = subprocess.run(["make", "--dry-run", "verify"], cwd=root, check=True, capture_output=True, text=True)
    assert "playbooks/verify.yml" in done.stdout


def test_the_archive_goes_to_the_working_directory_where_the_shell_exports_none(root, tmp_path, monkeypatch):
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.chdir(tmp_path)
    loader = DataLoader()
    defaults = loader.load_from_file(str(root / "roles/bundle/defaults/main.yml"), trusted_as_template=True)
    assert Templar(loader=loader, variables=defaults).template(defaults["bundle_directory"]) == str(tmp_path.resolve())
