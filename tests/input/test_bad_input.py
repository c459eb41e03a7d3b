# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong input is an error that names the variable and the remedy, shows no secret, and comes before anything is touched.

One run of site.yml has a host for each case. Their connection lets nothing through, so that what is not refused shows as unreachable.
"""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("cases", HERE / "cases.py")
table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)

OPTIONS = {
    name: option
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
    for entry in yaml.safe_load(path.read_text())["argument_specs"].values()
    for name, option in entry.get("options", {}).items()
}
# The playbook computes these, and nobody's inventory sets them.
COMPUTED = {"stack_images", "images_required", "docker_host_ports", "docker_host_project", "docker_host_stack_directory", "docker_host_images"}
CHECKED = {name: option for name, option in OPTIONS.items() if name not in COMPUTED}
STACK_DIRECTORY = "/opt/campaign-bad-input"
GOOD = {
    "stack_project": "campaign-bad-input",
    "stack_directory": STACK_DIRECTORY,
    "ansible_connection": "refusing",
    "stack_variant": "local",
    "images_source": "pull",
    "stack_secrets": {name: f"{table.CANARY}-{name.replace('_', '-')}" for name in table.SECRETS},
}


def cases() -> list[tuple[dict, str, str]]:
    found = [({name: value}, name, remedy) for name, option in CHECKED.items() for value, remedy in table.WRONG_TYPES[option["type"]]]
    found += [(variables, name, remedy) for variables, name, remedy in table.VALUES if set(variables) - COMPUTED]
    for changed, name, remedy in table.SECRET_VALUES:
        secrets = {key: value for key, value in {**GOOD["stack_secrets"], **changed}.items() if value is not None}
        found.append(({"stack_secrets": secrets}, name, remedy))
    found += [({"env_local_text": text}, name, remedy) for text, name, remedy in table.ENV_LOCAL]
    return found


CASES = cases()


def play(directory: Path, inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "plugins/connection"),
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "plugins/callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "outcomes",
        "ANSIBLE_STRATEGY": "free",
        "ANSIBLE_FORKS": "4",
        "ANSIBLE_NOCOLOR": "1",
        "OUTCOMES": str(directory / "outcomes"),
    }
    return subprocess.run(
        ["ansible-playbook", "-vvv", "--diff", "-i", str(inventory), "site.yml", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=540
    )


def traces(directory: Path) -> list[str]:
    """What a run would have left behind, on the host or among the secrets of the controller."""
    questions = [[*kind, "--quiet", "--filter", "name=campaign-bad-input"] for kind in (["ps", "--all"], ["network", "ls"], ["volume", "ls"])]
    found = [subprocess.run(["docker", *question], capture_output=True, text=True).stdout for question in questions]
    return [*filter(None, found), *(str(path) for path in (Path(STACK_DIRECTORY), directory / "generated") if path.exists())]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict:
    directory = tmp_path_factory.mktemp("input")
    hosts = {"good": GOOD}
    for number, (variables, _, _) in enumerate(CASES):
        variables = dict(variables)
        if (text := variables.pop("env_local_text", None)) is not None:
            file = directory / f"{number}.env"
            file.write_text(text + "\n")
            variables["stack_env_local"] = "{{ lookup('campaign.platform.env_file', '" + str(file) + "') }}"
        hosts[f"case{number}"] = GOOD | variables
    inventory = directory / "hosts.yml"
    inventory.write_text(json.dumps({"campaign": {"hosts": hosts}}))
    done = play(directory, inventory)
    lines = [json.loads(line) for line in (directory / "outcomes").read_text().splitlines()]
    return {"lines": lines, "output": done.stdout + done.stderr, "status": done.returncode, "traces": traces(directory)}


def of(outcomes, number: int) -> list[dict]:
    return [line for line in outcomes["lines"] if line["host"] == f"case{number}"]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{number}-{CASES[number][1]}")
def test_wrong_input_is_refused_by_name(outcomes, number):
    _, name, remedy = CASES[number]
    lines = of(outcomes, number)
    assert lines[-1]["outcome"] == "failed", lines
    assert {line["action"] for line in lines} == {"ansible.builtin.fail"}
    message = lines[-1]["message"]
    assert "Nothing was touched" in message, message
    assert name in message, message
    assert remedy in message, message
    assert table.CANARY not in message


def test_no_secret_shows_in_the_most_verbose_output(outcomes):
    found = [line for line in outcomes["output"].splitlines() if table.CANARY in line]
    assert found == []
    assert outcomes["status"] != 0


def test_nothing_was_left_behind(outcomes):
    assert outcomes["traces"] == []


@pytest.mark.parametrize(
    ("inventory", "arguments", "told"),
    [
        ("hosts: [", (), "hosts.yml"),
        ("elsewhere: {hosts: {a: }}", (), "group campaign"),
        ("campaign: {hosts: {a: }}", ("--limit", "nowhere"), "limit"),
        (f"campaign: {{hosts: {{a: {{stack_secrets: {{jwt_secret: {table.CANARY}}}}}}}}}", ("-e", "@/nowhere/vault.yml"), "/nowhere/vault.yml"),
    ],
    ids=["no YAML", "no group", "no host", "no file of variables"],
)
def test_what_cannot_be_loaded_stops_the_run(tmp_path, inventory, arguments, told):
    (tmp_path / "hosts.yml").write_text(inventory)
    done = play(tmp_path, tmp_path / "hosts.yml", *arguments)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr
    assert table.CANARY not in done.stdout + done.stderr


def test_a_vault_without_its_password_stops_the_run(tmp_path):
    """Whole files of variables are decrypted while the inventory is loaded, single values when they are used."""
    password = tmp_path / "password"
    password.write_text("right")
    folder = tmp_path / "group_vars/campaign"
    folder.mkdir(parents=True)
    (folder / "vault.yml").write_text(f"vault_stack_secrets: {{jwt_secret: {table.CANARY}}}")
    subprocess.run(["ansible-vault", "encrypt", "--vault-password-file", str(password), str(folder / "vault.yml")], check=True, capture_output=True)
    (tmp_path / "hosts.yml").write_text("campaign: {hosts: {a: }}")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    for arguments in ((), ("--vault-password-file", str(wrong))):
        done = play(tmp_path, tmp_path / "hosts.yml", *arguments)
        assert done.returncode != 0
        assert "ecrypt" in done.stdout + done.stderr
        assert "vault" in done.stdout + done.stderr
        assert table.CANARY not in done.stdout + done.stderr


def test_right_input_passes_every_validation_and_then_reaches_for_the_host(outcomes):
    lines = [line for line in outcomes["lines"] if line["host"] == "good"]
    assert [line["outcome"] for line in lines][-1] == "unreachable"


def test_every_variable_has_a_case():
    named = {name for variables, _, _ in CASES for name in variables}
    assert CHECKED.keys() - named == set()
    assert len(CASES) >= 150


def test_every_secret_has_a_case():
    text = (ROOT / "roles/stack/vars/main/secrets.yml").read_text()
    declared = yaml.safe_load(text)["__stack_generated_names"]
    assert set(declared) - set(table.SECRETS) == set()
