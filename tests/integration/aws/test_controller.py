# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller reads its secrets from AWS Secrets Manager: once for each door, by precedence, and with errors that help and show nothing."""

import json
import re
import subprocess
from pathlib import Path

import program
import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils.release import generation

from .conftest import CANARY, CREDENTIALS, REGION, error, free_port, value

ROOT = Path(__file__).resolve().parents[3]


# The role as a deploy has it, without the check of Ansible's own that comes before it. In check mode it stages nothing and starts nothing, and reads all
# that a deploy reads.
ROLE = {"name": "Deploy", "ansible.builtin.import_role": {"name": "campaign.platform.stack", "rolespec_validate": False}}


@pytest.fixture
def run(tmp_path, clean_environment):
    """Run a play over hosts that differ in their variables, and return the whole output and each host's own failure."""

    def run_play(hosts: dict[str, dict], environment: dict[str, str], tasks: tuple[dict, ...] = ()) -> tuple[str, dict[str, str]]:
        common = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}", "stack_variant": "prod"}
        # Not the name of a stack that may run here.
        common |= {
            "stack_project": "campaign-aws",
            "stack_directory": str(tmp_path / "stack"),
            "stack_images": {key: f"campaign/{key}:none" for key in program.IMAGES},
        }
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
        play = {"name": "Deploy", "hosts": "all", "gather_facts": False, "tasks": [ROLE, *tasks]}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        command = ["ansible-playbook", "-vvv", "--diff", "--check", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")]
        done = subprocess.run(command, cwd=ROOT, env=clean_environment | environment, capture_output=True, text=True, timeout=240)
        output = done.stdout + done.stderr
        assert "PLAY RECAP" in output, output
        assert not (tmp_path / "stack").exists()
        blocks = re.findall(r"^fatal: \[(\S+)\]: FAILED! =>(.*?)(?=^\S|\Z)", done.stdout, re.MULTILINE | re.DOTALL)
        return output, {name: re.sub(r"\s+", " ", text) for name, text in blocks}

    return run_play


def host(secret_id: str, **variables) -> dict:
    return {"stack_aws_secret_id": secret_id, "stack_aws_region": REGION, **variables}


def at(url: str) -> dict[str, str]:
    return CREDENTIALS | {"AWS_ENDPOINT_URL_SECRETS_MANAGER": url}


def is_value(consumer: str, name: str, text: str, key: str) -> dict:
    """Return a task that fails unless a consumer's secret file has this content: its name is a keyed digest of it."""
    expected = f"secrets/{consumer}_{name}_{generation(key, consumer, name, text)}"
    return {"name": f"Compare {name}", "ansible.builtin.assert": {"that": f"'{expected}' in __stack_staged.manifest.secrets", "quiet": True}}


def test_moto_s_answers(moto, run, strong):
    without = {name: text for name, text in strong.items() if name != "jwt_secret"}
    moto.put("complete", json.dumps(strong))
    moto.put("incomplete", json.dumps(without))
    moto.put("unknown", json.dumps(strong | {"jwt_secrets": CANARY}))
    moto.put("number", json.dumps(strong | {"jwt_secret": 4711}))
    moto.put("weak", json.dumps(strong | {"jwt_secret": "changeme"}))
    moto.put("empty", json.dumps(strong | {"jwt_secret": ""}))
    moto.put("text", CANARY)
    moto.put("list", json.dumps(list(strong.values())))
    moto.put("broken", json.dumps(strong)[:-1])
    moto.client().create_secret(Name="binary", SecretBinary=CANARY.encode())
    moto.client().delete_secret(SecretId=moto.put("deleted", json.dumps(strong)))
    expected = {
        "incomplete": "stack_secrets.jwt_secret is missing",
        "unknown": "jwt_secrets is not a known secret. Did you mean",
        "number": "jwt_secret: not a string. Put the value in double quotes",
        "weak": "jwt_secret is the value of an example",
        "empty": "jwt_secret must be at least 8 characters without NUL, at most 4096, but it is empty",
        "text": "is not a JSON object",
        "list": "is not a JSON object",
        "broken": "is not a JSON object",
        "binary": "is not a JSON object",
        "deleted": "restore-secret",
        "absent": "there is no such secret. Check stack_aws_secret_id and stack_aws_region",
    }
    arn = moto.client().describe_secret(SecretId="complete")["ARN"]
    hosts = {"complete": host("complete"), "arn": host(arn)} | {name: host(name) for name in expected}
    output, failures = run(hosts, at(moto.url))
    assert CANARY not in output
    assert failures.keys() == expected.keys()
    for name, message in expected.items():
        assert message in failures[name], name
        assert failures[name].count(" - ") == 1, f"{name}: one cause, one problem: {failures[name]}"


def test_faults(fault_server, run, strong):
    good = value(json.dumps(strong))
    faults = fault_server(
        denied=[error("AccessDeniedException")],
        throttled=[error("ThrottlingException")],
        recovers=[error("ThrottlingException"), error("InternalServiceError", 500), good],
        expired=[error("ExpiredTokenException")],
        unrecognized=[error("UnrecognizedClientException")],
        undecipherable=[error("DecryptionFailure")],
        internal=[error("InternalServiceError", 500)],
        garbage=[(200, f"<html>{CANARY}</html>".encode())],
        strange=[error(f"{CANARY} is no code of AWS")],
    )
    expected = {
        "denied": "Allow these credentials secretsmanager:GetSecretValue",
        "throttled": "throttled 4 times",
        "expired": "the credentials have expired",
        "unrecognized": "the credentials were refused",
        "undecipherable": "its key cannot decrypt it",
        "internal": "the answer is not usable (InternalServiceError)",
        "garbage": "is not a JSON object",
        "strange": "the answer is not usable",
    }
    output, failures = run({name: host(name) for name in faults.scripts}, at(faults.url))
    assert CANARY not in output
    assert failures.keys() == expected.keys()
    for name, message in expected.items():
        assert message in failures[name], name
    assert faults.asked["denied"] == 1
    assert faults.asked["throttled"] == 4
    # Three times for the validation, and then once for the release.
    assert faults.asked["recovers"] == 4


def looks(given: dict[str, str]) -> tuple[dict, ...]:
    """Return tasks that look for values where they arrive, in files of three consumers."""
    key = given["generation_key"]
    files = [("api", "jwt_secret"), ("postgres", "postgres_password"), ("api", "s3_secret_key"), ("minio", "minio_root_user")]
    return tuple(is_value(consumer, name, given[name], key) for consumer, name in files)


def test_each_door_asks_aws_once(fault_server, run, strong):
    faults = fault_server(one=[value(json.dumps(strong))], two=[value(json.dumps(strong))])
    output, failures = run({"one": host("one"), "two": host("two")}, at(faults.url), looks(strong))
    assert failures == {}, output
    # What validates, and what builds the release: nothing is kept between the two, and no variable and no task asks again.
    assert faults.asked == {"one": 2, "two": 2}
    assert CANARY not in output


def test_moto_is_asked_twice_in_a_deploy_and_not_where_validation_fails(moto, run, strong):
    moto.put("counted", json.dumps(strong))
    moto.put("counted/weak", json.dumps(strong | {"jwt_secret": "changeme"}))
    before = moto.requests()
    output, failures = run({"one": host("counted")}, at(moto.url), looks(strong))
    assert failures == {}, output
    assert moto.requests() - before == 2
    _output, failures = run({"one": host("counted/weak")}, at(moto.url))
    assert failures.keys() == {"one"}
    assert moto.requests() - before == 3


def test_a_wrong_value_is_seen(moto, run, strong):
    """What the other tests compare would differ."""
    moto.put("another", json.dumps(strong | {"jwt_secret": f"{CANARY}-another-Wq8hT2nLx5RzWq8hT2nLx5Rz"}))
    _output, failures = run({"one": host("another")}, at(moto.url), looks(strong))
    assert failures.keys() == {"one"}
    assert "Assertion failed" in failures["one"]


def test_the_vault_wins_over_aws(moto, run, strong):
    moto.put("precedence", json.dumps(strong))
    own = f"{CANARY}-of-the-vault-Wq8hT2nLx5Rz"
    output, failures = run({"one": host("precedence", stack_secrets={"jwt_secret": own})}, at(moto.url), looks(strong | {"jwt_secret": own}))
    assert failures == {}, output


def test_env_local_wins_over_both(moto, run, strong):
    moto.put("local", json.dumps(strong))
    own = f"{CANARY}-of-env-local"
    local = host("local", stack_variant="local", stack_secrets={"jwt_secret": "of-the-vault-of-the-vault"}, stack_env_local={"JWT_SECRET": own})
    output, failures = run({"one": local}, at(moto.url), looks(strong | {"jwt_secret": own}))
    assert failures == {}, output


def test_no_credentials_and_no_service(run):
    nobody = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{free_port()}"}
    _output, failures = run({"credentials": host("x")}, nobody)
    assert "there are no usable credentials" in failures["credentials"]
    _output, failures = run({"service": host("x")}, CREDENTIALS | nobody)
    assert "the service cannot be reached" in failures["service"]


def test_half_a_setting_is_refused_before_anyone_is_asked(fault_server, run, strong):
    faults = fault_server()
    given = {"stack_secrets": strong}
    hosts = {
        "no-region": ({"stack_aws_secret_id": "x"}, "stack_aws_region is missing"),
        "region-alone": ({"stack_aws_region": REGION}, "stack_aws_region is set, but no secret of AWS is named"),
        "no-region-at-run-time": ({"stack_aws_runtime_secret_ids": {"api": "x"}}, "stack_aws_region is missing"),
        "endpoint-alone": ({"stack_aws_endpoint_url": "http://192.0.2.1:5000"}, "stack_aws_endpoint_url is for services"),
        "no-such-service": ({"stack_aws_region": REGION, "stack_aws_runtime_secret_ids": {"apis": "x"}}, "apis is not a known setting"),
        "no-id": ({"stack_aws_region": REGION, "stack_aws_runtime_secret_ids": {"api": "a b"}}, "api must be the name or ARN of a secret"),
        "no-url": (
            {"stack_aws_region": REGION, "stack_aws_runtime_secret_ids": {"api": "x"}, "stack_aws_endpoint_url": "localhost"},
            "stack_aws_endpoint_url must be an address",
        ),
        "empty-region": ({"stack_aws_region": "", "stack_aws_runtime_secret_ids": {"api": "x"}}, "stack_aws_region must be a region"),
        "no-mapping": ({"stack_aws_region": REGION, "stack_aws_runtime_secret_ids": ["api"]}, "must be a mapping of names to values"),
        "no-logins": (
            {"stack_aws_region": REGION, "stack_aws_runtime_secret_ids": {"api": "x"}, "stack_secrets": {"jwt_secret": strong["jwt_secret"]}},
            "stack_secrets.postgres_api_password is missing",
        ),
    }
    without_token_key = {name: text for name, text in strong.items() if name != "jwt_secret"}
    right = {"stack_aws_region": REGION, "stack_aws_runtime_secret_ids": {"api": "x"}, "stack_secrets": without_token_key}
    output, failures = run({"right": right} | {name: given | variables for name, (variables, _message) in hosts.items()}, at(faults.url))
    assert failures.keys() == hosts.keys()
    for name, (_variables, message) in hosts.items():
        assert message in failures[name], name
    assert not faults.asked
    assert CANARY not in output
