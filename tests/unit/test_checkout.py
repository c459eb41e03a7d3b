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


@pytest.mark.parametrize("asked", [{"ANSIBLE_RUN_TAGS": "deploy"}, {"ANSIBLE_SKIP_TAGS": "all"}], ids=["run", "skip"])
def test_tags_that_leave_everything_out_are_no_success(checkout, tmp_path, asked):
    (tmp_path / "hosts.yml").write_text("campaign: {hosts: {a: }}\n")
    done = run(checkout, "-i", str(tmp_path / "hosts.yml"), "playbooks/site.yml", **asked)
    assert done.returncode != 0
    assert "would leave everything out" in " ".join(done.stdout.split())


def test_tags_of_a_playbook_that_imports_ours_are_its_own(checkout, tmp_path):
    (tmp_path / "hosts.yml").write_text("campaign: {hosts: {a: {ansible_connection: local}}}\n")
    (checkout / "mine.yml").write_text("- name: Mine\n  ansible.builtin.import_playbook: playbooks/site.yml\n  tags: [deploy]\n")
    done = run(checkout, "-i", str(tmp_path / "hosts.yml"), "mine.yml", "--tags", "deploy")
    assert "stack_variant is missing" in " ".join(done.stdout.split())


def test_a_limit_of_time_of_the_caller_s_ends_no_long_work_in_its_middle(checkout):
    for name in ("site", "rollback", "down", "bundle", "publish", "upgrade_postgres", "backup", "drill", "restore", "export"):
        plays = [play for play in DataLoader().load_from_file(str(checkout / f"playbooks/{name}.yml")) if "hosts" in play]
        assert [play["timeout"] for play in plays] == [0] * len(plays), name


@pytest.mark.parametrize("given", ["C", "de_DE.UTF-8"])
def test_make_has_a_locale_that_ansible_takes(root, given):
    command = ["make", "--no-print-directory", "--eval", "shown: ; @echo $$LC_ALL", "shown"]
    done = subprocess.run(command, cwd=root, env=BARE | {"LC_ALL": given}, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "C.UTF-8"


def test_make_verify_asks_for_a_playbook_that_is_found(root):
    done = subprocess.run(["make", "--dry-run", "verify"], cwd=root, check=True, capture_output=True, text=True)
    assert "playbooks/verify.yml" in done.stdout


def test_the_archive_goes_to_the_working_directory_where_the_shell_exports_none(root, tmp_path, monkeypatch):
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.chdir(tmp_path)
    loader = DataLoader()
    defaults = loader.load_from_file(str(root / "roles/bundle/defaults/main.yml"), trusted_as_template=True)
    assert Templar(loader=loader, variables=defaults).template(defaults["bundle_directory"]) == str(tmp_path.resolve())
