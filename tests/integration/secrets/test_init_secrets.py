# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook that starts a vault: complete, strong, encrypted, and never over something that is there."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from program import secret_names

ROOT = Path(__file__).resolve().parents[3]
NAMES = secret_names(asked=True)
VAULT = "group_vars/campaign/vault.yml"


@pytest.fixture
def inventory(tmp_path) -> Path:
    (tmp_path / "inventory/group_vars/campaign").mkdir(parents=True)
    (tmp_path / "inventory/hosts.yml").write_text("campaign: {hosts: {platform.example.com: {}}}\n")
    (tmp_path / "password").write_text("password of the vault\n")
    return tmp_path / "inventory"


def run(command: list[str], inventory: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")} | {
        "HOME": str(inventory.parent),
        "ANSIBLE_INJECT_INVOCATION": "true",
    }
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


def init(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(["ansible-playbook", "-vvv", "--diff", "-i", str(inventory), "playbooks/init_secrets.yml", *arguments], inventory)


def variables(inventory: Path, path: Path) -> dict[str, Any]:
    done = run(["ansible-vault", "view", "--vault-password-file", str(inventory.parent / "password"), str(path)], inventory)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def view(inventory: Path, path: Path) -> dict[str, str]:
    return variables(inventory, path)["vault_stack_secrets"]


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and path.name not in ("hosts.yml", "password")]


@pytest.mark.parametrize("option", ["--vault-password-file={}", "--vault-id=prod@{}"])
def test_the_vault_is_complete_strong_and_the_only_trace(inventory, option):
    done = init(inventory, option.format(inventory.parent / "password"))
    assert done.returncode == 0, done.stdout + done.stderr
    path = inventory / VAULT
    assert files(inventory.parent) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("$ANSIBLE_VAULT;1.2;AES256;prod\n" if "vault-id" in option else "$ANSIBLE_VAULT;1.1;AES256\n")
    written = variables(inventory, path)
    assert list(written) == ["vault_stack_secrets", "vault_backup_password"]
    secrets = written["vault_stack_secrets"]
    assert list(secrets) == NAMES
    # Which the role backup would refuse otherwise.
    secrets["backup_password"] = written["vault_backup_password"]
    assert all(re.fullmatch(r"[\w-]{43}", value) for value in secrets.values())
    assert len(set(secrets.values())) == len(NAMES) + 1
    assert [name for name, value in secrets.items() if value in done.stdout + done.stderr] == []


def test_prod_takes_the_vault_as_it_was_written(inventory):
    password = f"--vault-password-file={inventory.parent / 'password'}"
    assert init(inventory, password).returncode == 0
    (inventory / "group_vars/campaign/stack.yml").write_text(
        'ansible_connection: local\nstack_variant: prod\nstack_images: {}\nstack_secrets: "{{ vault_stack_secrets }}"\n'
    )
    play = inventory.parent / "play.yml"
    role = {"ansible.builtin.import_role": {"name": "campaign.platform.stack", "tasks_from": "validate.yml"}}
    play.write_text(yaml.safe_dump([{"hosts": "campaign", "gather_facts": False, "tasks": [role]}]))
    done = run(["ansible-playbook", "-vvv", "--diff", "-i", str(inventory), password, str(play)], inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name, value in view(inventory, inventory / VAULT).items() if value in done.stdout + done.stderr] == []


@pytest.mark.parametrize("content", ["", "vault_stack_secrets: {}\n"])
def test_what_is_there_is_left_alone(inventory, content):
    (inventory / VAULT).write_text(content)
    done = init(inventory, f"--vault-password-file={inventory.parent / 'password'}")
    assert done.returncode != 0
    assert "is there already and was left as it is" in re.sub(r"\s+", " ", done.stdout)
    assert (inventory / VAULT).read_text() == content


def test_nothing_is_written_through_a_link(inventory):
    (inventory / VAULT).symlink_to(inventory / "elsewhere")
    assert init(inventory, f"--vault-password-file={inventory.parent / 'password'}").returncode != 0
    assert not (inventory / "elsewhere").exists()


def test_without_a_vault_password_nothing_is_written(inventory):
    done = init(inventory)
    assert done.returncode != 0
    assert "--ask-vault-pass" in done.stdout
    assert files(inventory.parent) == []


def test_a_check_run_writes_nothing(inventory):
    done = init(inventory, f"--vault-password-file={inventory.parent / 'password'}", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(inventory.parent) == []


def test_another_path_and_a_missing_directory(inventory):
    password = f"--vault-password-file={inventory.parent / 'password'}"
    own = inventory.parent / "own.yml"
    assert init(inventory, password, "-e", f"stack_vault_file={own}").returncode == 0
    assert list(view(inventory, own)) == NAMES
    done = init(inventory, password, "-e", f"stack_vault_file={inventory.parent}/none/vault.yml")
    assert done.returncode != 0
    assert "is not a directory. Create it" in re.sub(r"\s+", " ", done.stdout)
