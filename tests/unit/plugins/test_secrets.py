# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused as a secret in prod, and how secrets come from AWS."""

import re
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.parsing.vault import VaultSecret
from ansible_collections.campaign.platform.plugins.filter.aws_runtime import aws_runtime
from ansible_collections.campaign.platform.plugins.filter.compose_layer import compose_layer
from ansible_collections.campaign.platform.plugins.filter.release_plan import release_plan
from ansible_collections.campaign.platform.plugins.filter.secret_problems import secret_problems
from ansible_collections.campaign.platform.plugins.lookup import aws_secret
from ansible_collections.campaign.platform.plugins.lookup.env_file import parse_env
from ansible_collections.campaign.platform.plugins.lookup.vaulted_secrets import encrypted
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = yaml.safe_load((ROOT / "roles/stack/vars/main/settings.yml").read_text())
EXAMPLES = SETTINGS["__stack_secret_examples"]
ANY = {"pattern": "[^\\x00]{3,}", "hint": "at least 3 characters"}
RULES = {"password": {**ANY, "strong": 16}, "key": {**ANY, "strong": 32}, "user": {**ANY, "strong": 3}, "login": ANY}
GOOD = {"password": "Zq3-vT8_mK1pW5xB", "key": "Zq3-vT8_mK1pW5xBr7Yd2Hn6Lc9Sg4Jf", "user": "h7Gd0Kx2", "login": "api"}


def problems(strict=True, **values) -> list[str]:
    return secret_problems({"the vault": values}, RULES, EXAMPLES, strict)


def test_strong_secrets_are_no_problem():
    assert problems(**GOOD) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Zq3-vT8_mK1pW5x", "at least 16 characters in prod, but it has 15"),
        ("a" * 16, "repeats itself"),
        ("abcabcabcabcabcabc", "repeats itself"),
        ("Zq3-vT8_Zq3-vT8_", "repeats itself"),
        ("Zq3-vT8_mZq3-vT8_m Zq3-vT8_mZq3-vT8_m ", "repeats itself"),
        ("0123456789abcdef"[:10] * 2, "repeats itself"),
        ("abcdefghijklmnopqrst", "follows a pattern"),
        ("zyxwvutsrqponmlkj", "follows a pattern"),
        ("abbabaabbaababbab", "can be guessed"),
        ("campaign_pass", "example"),
        ("campaign_pass-and-some-more", "example"),
        ("your-secret-key-here", "placeholder"),
        ("Your own and long password here", "placeholder"),
        ("minioadmin-minioadmin", "example"),
        ("ChangeMe-ChangeMe-1", "example"),
        ("change-me-to-something", "example"),
        ("this-is-a-PLACEHOLDER", "example"),
        ("an-example-of-a-password", "example"),
        ("minio_secret_key", "example"),
        ("<your password>", "placeholder"),
        ("${POSTGRES_PASSWORD}", "placeholder"),
        ("{{ lookup('env', 'P') }}", "placeholder"),
        ("at least 8 characters", "example"),
    ],
)
def test_a_weak_secret_is_refused_in_prod_only(value, message):
    (problem,) = problems(password=value)
    assert problem.startswith("the vault: password ")
    assert message in problem
    assert value not in problem
    assert "init_secrets" in problem
    assert problems(strict=False, password=value) == []


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("value", "message"),
    [("", "it is empty"), (None, "must be a string"), (12345678, "must be a string"), (True, "must be a string"), (["a"], "must be a string")],
)
def test_what_is_no_text_is_refused_everywhere(value, message, strict):
    (problem,) = problems(strict=strict, password=value)
    assert message in problem


def test_a_key_is_longer_than_a_password():
    (problem,) = problems(key=GOOD["password"])
    assert "at least 32 characters" in problem


def test_a_login_may_be_short_but_not_known_from_an_example():
    assert problems(user="xyz") == []
    assert "example" in problems(user="minioadmin")[0]
    assert problems(login="example") == []


def test_two_secrets_of_one_value_are_refused_wherever_they_come_from():
    sources = {"AWS": {"key": GOOD["key"]}, "the vault": {"password": GOOD["key"]}}
    assert secret_problems(sources, RULES, EXAMPLES, True) == ["key and password have the same value. Give each its own."]
    assert secret_problems(sources, RULES, EXAMPLES, False) == []
    # The later source wins, so the two are different.
    assert secret_problems({**sources, "the file": {"key": GOOD["key"][::-1]}}, RULES, EXAMPLES, True) == []


def test_an_unknown_secret_is_named():
    assert "Did you mean password?" in problems(pasword="x")[0]


def test_every_secret_of_the_stack_has_a_strength():
    names = yaml.safe_load((ROOT / "roles/stack/vars/main/secrets.yml").read_text())["__stack_generated_names"]
    rules = SETTINGS["__stack_secret_rules"]
    spelled = {name: SETTINGS["__stack_secret_rule"] if isinstance(rule, str) else rule for name, rule in rules.items()}
    assert [name for name in names if not spelled[name].get("strong")] == []


def test_no_secret_of_the_example_file_is_taken_in_prod():
    """Every secret that .env.local.example shows, put in as it stands there."""
    lines = [line.removeprefix("#") for line in (ROOT / ".env.local.example").read_text().splitlines() if re.match(r"#\w+=", line)]
    shown = parse_env("\n".join(lines))
    secrets = {name: shown[name] for name in SETTINGS["__stack_env_local_secrets"]}
    assert secrets
    rules = {name: {**ANY, "strong": 3} for name in secrets}
    refused = [name for name, value in secrets.items() if secret_problems({"x": {name: value}}, rules, EXAMPLES, True)]
    assert refused == list(secrets)


def test_a_service_that_fetches_has_no_files_and_a_way_out():
    entry = aws_runtime({"api": "campaign/api"}, "eu-central-1", "http://192.0.2.1:5000")
    service = {"image": "x", "user": "1:1", "networks": ["backend"], "environment": {"A": "1"}}
    catalogue = [{"base": {"services": {"api": service, "worker": service}}, "secrets": {"api": {"jwt": "v"}, "worker": {"jwt": "v"}}}, entry]
    plan = release_plan(catalogue, "dev", {}, {"backend": {"internal": True}}, {}, "key", "/opt/x", "project")
    compose = yaml.safe_load(plan["files"][0]["content"])
    api, worker = compose["services"]["api"], compose["services"]["worker"]
    assert "secrets" not in api
    assert api["networks"] == ["backend", "egress-network"]
    assert api["environment"] == {
        "A": "1",
        "AWS_SECRETS_MANAGER_SECRET_ID": "campaign/api",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://192.0.2.1:5000",
    }
    assert (worker["networks"], len(worker["secrets"])) == (["backend"], 1)
    assert compose["networks"] == {"backend": {"internal": True}, "egress-network": {}}
    assert [secret["path"].split("_")[0] for secret in plan["secrets"]] == ["/opt/x/secrets/worker"]


def test_without_such_a_service_nothing_is_added():
    assert compose_layer([aws_runtime({})], "base") == {}


def failure(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "s3cret"}}, "GetSecretValue")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (failure("ResourceNotFoundException"), "there is no such secret"),
        (failure("AccessDeniedException"), "secretsmanager:GetSecretValue"),
        (failure("ThrottlingException"), "throttled 4 times"),
        (failure("ExpiredTokenException"), "have expired"),
        (failure("InvalidSignatureException"), "were refused"),
        (failure("InvalidRequestException"), "restore-secret"),
        (failure("DecryptionFailure"), "KMS"),
        (failure("InvalidParameterException"), "spelling of stack_aws_secret_id"),
        (failure("s3cret s3cret"), "not usable (ClientError)"),
        (NoCredentialsError(), "no usable credentials"),
        (ConnectTimeoutError(endpoint_url="s3cret"), "cannot be reached"),
        (RuntimeError("s3cret"), "not usable (RuntimeError)"),
    ],
)
def test_an_error_of_the_sdk_is_explained_by_its_name_alone(error, message):
    try:
        raise AnsibleLookupError("s3cret") from error
    except AnsibleLookupError as wrapped:
        text = aws_secret.explain(aws_secret.code_of(wrapped if not isinstance(error, RuntimeError) else error))
    assert message in text
    assert "s3cret" not in text


def test_a_vault_needs_a_password_to_encrypt_with():
    with pytest.raises(AnsibleLookupError, match="--ask-vault-pass"):
        encrypted(["a"], "v", [], None)
    with pytest.raises(AnsibleError, match="vault-ids"):
        encrypted(["a"], "v", [("one", VaultSecret(b"x"))], "two")


def test_every_vault_is_another():
    password = [("default", VaultSecret(b"x"))]
    assert encrypted(["a"], "v", password, None) != encrypted(["a"], "v", password, None)
