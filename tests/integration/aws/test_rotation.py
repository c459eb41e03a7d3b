# SPDX-License-Identifier: GPL-3.0-or-later
"""New values come into the secret of AWS Secrets Manager, beside what else stands there, and no value is shown."""

import json
import subprocess
from pathlib import Path

import program
import pytest
import yaml

from .conftest import CANARY, CREDENTIALS, REGION, error, value

ROOT = Path(__file__).resolve().parents[3]
ROTATE = {"name": "Rotate", "ansible.builtin.import_role": {"name": "campaign.platform.stack", "tasks_from": "rotate_secrets.yml"}}


@pytest.fixture
def rotate(tmp_path, clean_environment):
    def run(url: str, secret_id: str, *names: str, **variables) -> tuple[int, str]:
        host = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "stack_variant": "prod",
            "stack_project": "campaign-aws",
            "stack_directory": str(tmp_path / "stack"),
            "stack_images": {key: f"campaign/{key}:none" for key in program.IMAGES},
            "stack_aws_secret_id": secret_id,
            "stack_aws_region": REGION,
            "stack_rotate_secrets": list(names),
            "stack_vault_file": str(tmp_path / "vault.yml"),
            "stack_env_local_file": str(tmp_path / ".env.local"),
            **variables,
        }
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"here": host}}}))
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"name": "Rotate", "hosts": "all", "gather_facts": False, "tasks": [ROTATE]}]))
        command = ["ansible-playbook", "-vvv", "--diff", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")]
        environment = clean_environment | CREDENTIALS | {"AWS_ENDPOINT_URL_SECRETS_MANAGER": url}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


def now(moto, name: str) -> dict[str, str]:
    return json.loads(moto.client().get_secret_value(SecretId=name)["SecretString"])


def test_the_secret_gets_a_new_version_with_all_else_in_it(moto, rotate, strong):
    moto.put("rotated", json.dumps(strong))
    status, output = rotate(moto.url, "rotated", "s3_secret_key", "jwt_secret")
    assert status == 0, output[-3000:]
    after = now(moto, "rotated")
    changed = {name for name in after if after[name] != strong.get(name)}
    assert changed == {"s3_access_key", "s3_secret_key", "jwt_secret", "jwt_secret_previous"}
    assert "the secret rotated of AWS Secrets Manager" in output
    assert CANARY not in output
    assert [name for name in changed if after[name] in output] == []
    # The earlier version is there to go back to.
    versions = moto.client().list_secret_version_ids(SecretId="rotated")["Versions"]
    assert sorted(stage for version in versions for stage in version.get("VersionStages", [])) == ["AWSCURRENT", "AWSPREVIOUS"]


def test_what_the_vault_has_is_not_written_to_aws(moto, rotate, strong, tmp_path):
    moto.put("shared", json.dumps(strong))
    own = {"operator_password": f"{CANARY}-of-the-vault-kR7vT2mK9pW5"}
    (tmp_path / "vault.yml").write_text(yaml.safe_dump({"stack_secrets": own}))
    status, output = rotate(moto.url, "shared", "operator_password", "redis_api_password", stack_secrets=own)
    assert status == 0, output[-3000:]
    after = now(moto, "shared")
    assert {name for name in after if after[name] != strong[name]} == {"redis_api_password"}
    assert yaml.safe_load((tmp_path / "vault.yml").read_text())["stack_secrets"]["operator_password"] != own["operator_password"]
    assert CANARY not in output


def test_a_secret_that_may_not_be_written_changes_nothing(fault_server, rotate, strong, tmp_path):
    """The first to ask reads, which works, and the next one writes, which does not."""
    faults = fault_server(readonly=[value(json.dumps(strong)), value(json.dumps(strong)), error("AccessDeniedException")])
    own = {"operator_password": f"{CANARY}-of-the-vault-kR7vT2mK9pW5"}
    (tmp_path / "vault.yml").write_text(yaml.safe_dump({"stack_secrets": own}))
    status, output = rotate(faults.url, "readonly", "operator_password", "redis_api_password", stack_secrets=own)
    assert status == 2
    assert "Nothing was changed. AWS Secrets Manager (stack_aws_secret_id): writing it was denied" in output
    assert "secretsmanager:PutSecretValue" in output
    assert CANARY not in output
    assert yaml.safe_load((tmp_path / "vault.yml").read_text())["stack_secrets"] == own
