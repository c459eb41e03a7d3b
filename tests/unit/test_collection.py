# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's two lives: the checkout, and what `ansible-galaxy collection build` packs, installed elsewhere."""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="module")
def archive(root, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("build")
    run(["ansible-galaxy", "collection", "build", "--output-path", str(target)], cwd=root, home=target)
    (built,) = target.glob("campaign-platform-*.tar.gz")
    return built


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory) -> Path:
    """An empty home directory with the collection in it, as on a machine that has Ansible and nothing of this project."""
    home = tmp_path_factory.mktemp("home")
    run(["ansible-galaxy", "collection", "install", str(archive), "--offline", "--no-deps", "-p", str(home / ".ansible/collections")], cwd=home, home=home)
    return home


def run(command: list[str], cwd: Path, home: Path, status: int = 0) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")} | {"HOME": str(home)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def tasks(listing: str) -> list[str]:
    return [line.strip() for line in listing.splitlines() if "TAGS:" in line]


def test_the_archive_holds_the_collection_and_nothing_of_the_machine(archive, root):
    with tarfile.open(archive) as tar:
        packed = {member.name for member in tar if member.isfile()}
    tracked = set(subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout.splitlines())
    # What Ansible always leaves out, and what galaxy.yml says to.
    left_out = re.compile(
        r"^(galaxy\.yml$|(playbooks/)?collections(/|$)|\.(ci|config|github)/|\.(ansible-lint|compose-lint\.yml|editorconfig|git(attributes|ignore)|hadolint\.yaml"
        r"|pre-commit-config\.yaml|yamllint)$|Makefile$|molecule/|pytest\.ini$|requirements-dev\.|requirements\.in$|ruff\.toml$|scripts/|tests/)"
    )
    assert {path for path in tracked - packed if (root / path).exists() and not left_out.search(path)} == set()
    ignored = set(
        subprocess.run(
            ["git", "ls-files", "--others", "--ignored", "--exclude-standard"], cwd=root, check=True, capture_output=True, text=True
        ).stdout.splitlines()
    )
    assert packed & ignored == set()
    private = re.compile(r"(^|/)(\.venv|\.cache|\.ansible|\.git|node_modules|dist|__pycache__|collections|\.env\.local)(/|$)|\.tar\.gz$")
    assert {path for path in packed if private.search(path)} == set()


def test_the_same_tasks_run_from_the_checkout_and_from_the_installed_collection(installed, root):
    place = installed / ".ansible/collections/ansible_collections/campaign/platform"
    assert not (place / "collections").exists()
    for inventory in sorted(path.name for path in (root / "inventories").iterdir() if (path / "hosts.yml").exists()):
        here = tasks(run(["ansible-playbook", "site.yml", "--list-tasks", "-i", f"inventories/{inventory}"], cwd=root, home=installed))
        there = tasks(
            run(["ansible-playbook", "campaign.platform.site", "--list-tasks", "-i", str(place / "inventories" / inventory)], cwd=installed, home=installed)
        )
        assert len(there) > 10
        assert there == here[-len(there) :]


def test_every_playbook_parses(installed, root):
    names = sorted(path.stem for path in (root / "playbooks").glob("*.yml"))
    parsed = run(
        ["ansible-playbook", *(f"campaign.platform.{name}" for name in names), "--syntax-check", "-i", str(root / "inventories/local")],
        cwd=installed,
        home=installed,
    )
    assert re.findall(r"^playbook: .+/(\w+)\.yml$", parsed, re.MULTILINE) == names


def test_every_plugin_is_documented(installed, root):
    for kind in ("lookup", "module"):
        folder = root / "plugins" / ("modules" if kind == "module" else kind)
        names = [f"campaign.platform.{path.stem}" for path in sorted(folder.glob("*.py"))]
        documents = json.loads(run(["ansible-doc", "--json", "-t", kind, *names], cwd=installed, home=installed))
        for name in names:
            assert documents[name]["doc"]["short_description"], name
            assert documents[name]["examples"], f"{name}: no example"
    # An action is documented by the module of its name.
    assert {path.name for path in (root / "plugins/action").glob("*.py")} <= {path.name for path in (root / "plugins/modules").glob("*.py")}


def test_the_same_collections_are_named_for_galaxy(root):
    dependencies = yaml.safe_load((root / "galaxy.yml").read_text())["dependencies"]
    listed = yaml.safe_load((root / "collections/requirements.yml").read_text())["collections"]
    assert {entry["name"]: entry["version"] for entry in listed} == dependencies


def test_every_collection_that_is_used_is_a_dependency(root, texts):
    dependencies = yaml.safe_load((root / "galaxy.yml").read_text())["dependencies"]
    # P() refers to a plugin in a document.
    names = re.compile(r"(?<!P\()\b(community|ansible|amazon|containers)\.([a-z_]+)\.[a-z_0-9]+\b")
    used = {
        f"{match[1]}.{match[2]}"
        for path, text in texts.items()
        if re.match(r"(roles|playbooks|inventories|plugins)/.*\.(yml|j2|py)$", path)
        for match in names.finditer(text)
    }
    assert (
        used - set(dependencies) - {"ansible.builtin", "ansible.module_utils", "ansible.plugins", "ansible.utils", "ansible.errors", "ansible.parsing"} == set()
    )


def test_a_configuration_elsewhere_can_show_the_progress_of_steps(installed, tmp_path):
    """By its full name: the callback is in the collection, and not where Ansible looks for others."""
    (tmp_path / "ansible.cfg").write_text("[defaults]\ncallbacks_enabled = campaign.platform.progress\n[callback_campaign_progress]\nlog_interval = 1\n")
    task = {"name": "Wait", "ansible.builtin.command": {"argv": ["sleep", "2.5"]}, "changed_when": False, "vars": {"any_expected_seconds": 9}}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}]))
    assert "Wait: running for 0:01, usually takes 0:09\n" in run(["ansible-playbook", "play.yml"], cwd=tmp_path, home=installed)


def test_a_way_back_that_failed_has_an_exit_code_of_its_own(installed, tmp_path):
    (tmp_path / "ansible.cfg").write_text("[defaults]\ncallbacks_enabled = campaign.platform.exit_code\n")
    told = {"name": "Tell", "ansible.builtin.set_stats": {"data": {"campaign_not_rolled_back": True}, "per_host": True}}
    failed = {"name": "Fail", "ansible.builtin.fail": {"msg": "nothing is up"}}
    for tasks, status in (([told, failed], 3), ([failed], 2)):
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]))
        # All that a run shows at its end is there.
        assert "PLAY RECAP" in run(["ansible-playbook", "play.yml"], cwd=tmp_path, home=installed, status=status)
