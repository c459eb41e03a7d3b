# SPDX-License-Identifier: GPL-3.0-or-later
"""New values come into a vault that is there, encrypted as it was, and the deploy of the same run has them. The host is not touched."""

import json
import os
import re
import secrets
import stat
import subprocess
from pathlib import Path

import program
import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils.release import generation
from program import secret_names

ROOT = Path(__file__).resolve().parents[3]
NAMES = secret_names()
# What a new vault has, also for options that are off.
WRITTEN = secret_names(asked=True)
ROTATE = {
    "name": "Rotate",
    "ansible.builtin.import_role": {"name": "campaign.platform.stack", "tasks_from": "rotate_secrets.yml"},
}
# A check of a deploy reads all that a deploy reads.
DEPLOY = {"name": "Deploy", "ansible.builtin.import_role": {"name": "campaign.platform.stack", "rolespec_validate": False}}


@pytest.fixture
def inventory(tmp_path) -> Path:
    (tmp_path / "inventory/group_vars/campaign").mkdir(parents=True)
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "stack_variant": "prod",
        "stack_project": "campaign-rotated",
        "stack_directory": str(tmp_path / "stack"),
        "stack_images": {key: f"campaign/{key}:none" for key in program.IMAGES},
        "stack_secrets": "{{ vault_stack_secrets | default({}) }}",
        "stack_vault_file": "{{ inventory_dir }}/group_vars/campaign/vault.yml",
        "stack_env_local_file": "{{ inventory_dir }}/.env.local",
    }
    (tmp_path / "inventory/hosts.yml").write_text(yaml.safe_dump({"campaign": {"hosts": {"here": None}, "vars": variables}}))
    (tmp_path / "password").write_text("password of the vault\n")
    return tmp_path / "inventory"


def ansible(inventory: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"HOME": str(inventory.parent), "ANSIBLE_INJECT_INVOCATION": "true", "ANSIBLE_NOCOLOR": "1", **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)


def play(inventory: Path, *tasks: dict, check: bool = False, **variables) -> tuple[int, str]:
    # In front of an import in check mode, so that it does its work all the same.
    rows = [{**task, "check_mode": False} if task is ROTATE and not check else task for task in tasks]
    (inventory.parent / "play.yml").write_text(yaml.safe_dump([{"name": "Rotate", "hosts": "campaign", "gather_facts": False, "tasks": rows}]))
    password = f"--vault-password-file={inventory.parent / 'password'}"
    extra = json.dumps(variables)
    done = ansible(inventory, "ansible-playbook", "-vvv", "--diff", "--check", password, "-i", str(inventory), str(inventory.parent / "play.yml"), "-e", extra)
    return done.returncode, done.stdout + done.stderr


def view(inventory: Path) -> str:
    path = str(inventory / "group_vars/campaign/vault.yml")
    done = ansible(inventory, "ansible-vault", "view", f"--vault-password-file={inventory.parent / 'password'}", path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def vault(inventory) -> Path:
    password = f"--vault-password-file={inventory.parent / 'password'}"
    done = ansible(inventory, "ansible-playbook", "-i", str(inventory), password, "playbooks/init_secrets.yml")
    assert done.returncode == 0, done.stdout
    return inventory / "group_vars/campaign/vault.yml"


def secrets_of(text: str) -> dict[str, str]:
    return yaml.safe_load(text)["vault_stack_secrets"]


def test_a_vault_gets_new_values_and_the_same_run_deploys_them(inventory, vault):
    before, head = view(inventory), vault.read_text().split("\n")[0]
    # What the vault will hold is not known before, so the names of the files are written down and compared afterwards.
    shown = {"name": "Show", "ansible.builtin.debug": {"var": "__stack_staged.manifest.secrets"}}
    status, output = play(inventory, ROTATE, DEPLOY, shown, stack_rotate_secrets=["redis_api_password", "jwt_secret"])
    assert status == 0, output[-3000:]
    after, old = secrets_of(view(inventory)), secrets_of(before)
    assert {name for name in after if after[name] != old.get(name)} == {"redis_api_password", "jwt_secret", "jwt_secret_previous"}
    assert json.loads(after["jwt_secret_previous"])[0]["key"] == old["jwt_secret"]
    assert [name for name in after if name != "jwt_secret_previous"] == WRITTEN
    assert (vault.read_text().split("\n")[0], stat.S_IMODE(vault.stat().st_mode)) == (head, 0o600)
    assert [path.name for path in vault.parent.iterdir()] == ["vault.yml"]
    key = after["generation_key"]
    wanted = {f"api_{name}_{generation(key, 'api', name, after[name])}" for name in ("jwt_secret", "jwt_secret_previous")}
    assert not {name for name in wanted if f"secrets/{name}" not in output}
    assert f"api_jwt_secret_{generation(key, 'api', 'jwt_secret', old['jwt_secret'])}" not in output
    assert "New values: redis_api_password, jwt_secret." in output
    assert "Whatever ends this run before it has: deploy, or rotate again." in re.sub(r"\s+", " ", output)
    assert f"{vault}; commit it." in re.sub(r"\s+", " ", output)
    values = {*old.values(), *after.values()} - {"[]"}
    assert [value for value in values if value in output] == []


def test_a_check_writes_nothing(inventory, vault):
    before = vault.read_bytes()
    status, output = play(inventory, ROTATE, check=True, stack_rotate_secrets=["all"])
    assert status == 0, output[-3000:]
    assert f"New values: {', '.join(NAMES)}." in " ".join(output.split())
    assert vault.read_bytes() == before


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"stack_rotate_secrets": ["nowhere"]}, "rotate_secrets: nowhere is not a secret of this stack"),
        ({"stack_vault_file": "/nowhere/vault.yml"}, "there is no file /nowhere/vault.yml"),
        ({"stack_secrets": dict.fromkeys(NAMES, "")}, "must be"),
        ({"stack_secrets": {name: secrets.token_urlsafe(32) for name in NAMES}}, "does not hold them in vault_stack_secrets or stack_secrets"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is(inventory, vault, variables, words):
    before = vault.read_bytes()
    status, output = play(inventory, ROTATE, **{"stack_rotate_secrets": ["jwt_secret"], **variables})
    assert status == 2
    assert words in re.sub(r"\s+", " ", output)
    assert vault.read_bytes() == before


def test_a_vault_that_a_person_wrote_otherwise_is_left_to_a_person(inventory, vault):
    password = f"--vault-password-file={inventory.parent / 'password'}"
    text = yaml.safe_dump({"vault_stack_secrets": secrets_of(view(inventory))}, default_flow_style=True)
    vault.write_text(text)
    assert ansible(inventory, "ansible-vault", "encrypt", password, str(vault)).returncode == 0
    before = vault.read_bytes()
    status, output = play(inventory, ROTATE, stack_rotate_secrets=["jwt_secret"])
    assert status == 2
    assert "with `ansible-vault edit`, and deploy" in re.sub(r"\s+", " ", output)
    assert vault.read_bytes() == before


@pytest.mark.parametrize(
    ("variables", "environment", "words"),
    [
        ({"docker_host_source": "nowhere"}, {}, "docker_host_source"),
        ({"images_source": "nowhere"}, {}, "images_source"),
        ({"stack_variant": "nowhere"}, {}, "stack_variant"),
        ({}, {"ANSIBLE_KEEP_REMOTE_FILES": "1"}, "keep_remote_files"),
    ],
)
def test_what_the_deploy_would_refuse_is_refused_before_a_value_is_written(inventory, vault, variables, environment, words):
    before = vault.read_bytes()
    password = f"--vault-password-file={inventory.parent / 'password'}"
    extra = json.dumps({"rotate_secrets": "jwt_secret", **variables})
    done = ansible(inventory, "ansible-playbook", password, "-i", str(inventory), "playbooks/rotate_secrets.yml", "-e", extra, **environment)
    assert done.returncode == 2, done.stdout[-3000:]
    assert words in done.stdout
    assert "New values" not in done.stdout
    assert vault.read_bytes() == before


def test_another_host_with_secrets_of_its_own_does_not_get_those_of_the_first(inventory, vault):
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())
    hosts["campaign"]["hosts"]["there"] = None
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    status, output = play(inventory, ROTATE, check=True, stack_rotate_secrets=["jwt_secret"])
    assert status == 0, output[-3000:]
    own = {**secrets_of(view(inventory)), "jwt_secret": "another-one-of-there-0123456789abcdef"}
    hosts["campaign"]["hosts"]["there"] = {"stack_secrets": own}
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    before = vault.read_bytes()
    status, output = play(inventory, ROTATE, stack_rotate_secrets=["jwt_secret"])
    assert status == 2
    assert "here and there do not have the same jwt_secret" in re.sub(r"\s+", " ", output)
    assert vault.read_bytes() == before
    # What is the same in both can be, also where it is an expression that needs what the role alone knows.
    hosts["campaign"]["vars"]["stack_secrets"] = "{{ vault_stack_secrets | combine({'redis_api_user': 'api_of_' + (stack_api_port | string)}) }}"
    del hosts["campaign"]["hosts"]["there"]["stack_secrets"]
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    status, output = play(inventory, ROTATE, check=True, stack_rotate_secrets=["redis_api_password"])
    assert status == 0, output[-3000:]


def test_an_inventory_that_names_each_secret_has_to_name_the_keys_from_before_too(inventory, vault):
    """Otherwise the next deploy would not have them, and everybody would be signed out."""
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())
    named = {name: f"{{{{ vault_stack_secrets.{name} }}}}" for name in secrets_of(view(inventory)) if name != "jwt_secret_previous"}
    hosts["campaign"]["vars"]["stack_secrets"] = {**named, "operator_password": "stands-in-the-inventory-itself-1"}
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    before = vault.read_bytes()
    status, output = play(inventory, ROTATE, stack_rotate_secrets=["jwt_secret"])
    assert status == 2
    advice = re.search(r"Add it: jwt_secret_previous: \"(.*?)\"\.", re.sub(r"\s+", " ", output))
    assert advice, output[-3000:]
    assert vault.read_bytes() == before
    hosts["campaign"]["vars"]["stack_secrets"]["jwt_secret_previous"] = advice[1].replace("''", "'")
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    for _time in range(2):
        status, output = play(inventory, ROTATE, stack_rotate_secrets=["jwt_secret"])
        assert status == 0, output[-3000:]
    assert len(json.loads(secrets_of(view(inventory))["jwt_secret_previous"])) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a file a mount of its own")
def test_a_file_that_cannot_be_replaced_is_told_of_before_another_is_written(inventory, vault):
    """Of an inventory in a container, of which single files are mounted."""
    (inventory / ".env.local").write_text("JWT_SECRET=of-env-local-0123456789abcdefgh")
    kept = {"stack_variant": "local", "stack_env_local": "{{ lookup('campaign.platform.env_file', stack_env_local_file) }}"}
    subprocess.run(["mount", "--bind", inventory / ".env.local", inventory / ".env.local"], check=True)
    try:
        before = vault.read_bytes()
        status, output = play(inventory, ROTATE, stack_rotate_secrets=["redis_api_password", "jwt_secret"], **kept)
    finally:
        subprocess.run(["umount", inventory / ".env.local"], check=True)
    assert status == 2
    assert ".env.local cannot be replaced: it is a mount of its own" in re.sub(r"\s+", " ", output)
    assert vault.read_bytes() == before
    assert sorted(path.name for path in inventory.iterdir()) == [".env.local", "group_vars", "hosts.yml"]
    assert [path.name for path in vault.parent.iterdir()] == ["vault.yml"]
    status, output = play(inventory, ROTATE, stack_rotate_secrets=["redis_api_password", "jwt_secret"], **kept)
    assert status == 0, output[-3000:]
    assert vault.read_bytes() != before


def test_after_a_stolen_key_was_replaced_a_deploy_goes_on(inventory, vault):
    status, output = play(inventory, ROTATE, DEPLOY, stack_rotate_secrets=["jwt_secret"], stack_rotate_keep_sessions=False)
    assert status == 0, output[-3000:]
    assert secrets_of(view(inventory))["jwt_secret_previous"] == "[]"
    assert vault.is_file()
