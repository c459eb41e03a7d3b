# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused as a secret in prod, and how secrets come from AWS."""

import re
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleLookupError
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.campaign.platform.plugins.action.vaulted_secrets import encrypted
from ansible_collections.campaign.platform.plugins.lookup.env_file import parse_env
from ansible_collections.campaign.platform.plugins.plugin_utils import aws
from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import known_secrets
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import secret_problems
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError
from program import build, tables

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = tables().examples
KNOWN = known_secrets(tables(), tables().services)
ANY = {"pattern": "[^\\x00]{3,}", "hint": "at least 3 characters"}
RULES = {"password": {**ANY, "strong": 16}, "key": {**ANY, "strong": 32}, "user": {**ANY, "strong": 3}, "login": ANY}
GOOD = {"password": "Zq3-vT8_mK1pW5xB", "key": "Zq3-vT8_mK1pW5xBr7Yd2Hn6Lc9Sg4Jf", "user": "h7Gd0Kx2", "login": "api"}


def problems(strict=True, **values) -> list[str]:
    return secret_problems({"the vault": values}, RULES, EXAMPLES, strict=strict)


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
def test_what_is_not_text_is_refused_everywhere(value, message, strict):
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
    assert secret_problems(sources, RULES, EXAMPLES, strict=True) == ["key and password have the same value. Give each its own."]
    assert secret_problems(sources, RULES, EXAMPLES, strict=False) == []
    # The later source wins, so the two are different.
    assert secret_problems({**sources, "the file": {"key": GOOD["key"][::-1]}}, RULES, EXAMPLES, strict=True) == []


def test_an_unknown_secret_is_named():
    assert "Did you mean password?" in problems(pasword="x")[0]


def test_every_secret_of_the_stack_has_a_strength():
    # Two names of logins, and a key that is checked together with its certificate.
    assert {name for name, rule in KNOWN.rules.items() if not rule.get("strong")} == {"postgres_api_user", "redis_api_user", "tls_private_key"}


def test_no_secret_of_the_example_file_is_taken_in_prod():
    """Every secret that .env.local.example shows, put in as it stands there."""
    lines = [line.removeprefix("#") for line in (ROOT / ".env.local.example").read_text().splitlines() if re.match(r"#\w+=", line)]
    shown = parse_env("\n".join(lines))
    secrets = {secret: shown[name] for name, secret in KNOWN.env_local.items()}
    assert len(secrets) >= 7
    rules = {name: {**ANY, "strong": 3} for name in secrets}
    refused = [name for name, value in secrets.items() if secret_problems({"x": {name: value}}, rules, EXAMPLES, strict=True)]
    assert refused == list(secrets)


FETCHING = {
    "stack_variant": "prod",
    "stack_aws_runtime_secret_ids": {"api": "campaign/api"},
    "stack_aws_region": "eu-central-1",
    "stack_aws_endpoint_url": "http://192.0.2.1:5000",
}


def test_a_service_that_fetches_has_no_files_and_a_way_out():
    plan = build(FETCHING)
    compose = yaml.safe_load(plan["files"][0]["content"])
    api, worker = compose["services"]["api"], compose["services"]["scheduler"]
    assert "secrets" not in api
    assert api["networks"] == ["backend-network", "frontend-network", "egress-network"]
    assert {name: value for name, value in api["environment"].items() if name.startswith("AWS_")} == {
        "AWS_SECRETS_MANAGER_SECRET_ID": "campaign/api",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://192.0.2.1:5000",
    }
    assert (worker["networks"], len(worker["secrets"])) == (["backend-network"], 2)
    assert compose["networks"] == {"backend-network": {"internal": True}, "frontend-network": {}, "egress-network": {}}
    # Its job is another container, and has files still.
    consumers = {Path(secret["path"]).name.split("_")[0] for secret in plan["secrets"]}
    assert "api" not in consumers
    assert {"api-migrate", "scheduler"} <= consumers


def test_a_changed_value_that_a_service_fetches_changes_the_service():
    def label(**secrets):
        compose = yaml.safe_load(build({**FETCHING, "stack_secrets": secrets})["files"][0]["content"])
        return compose["services"]["api"]["labels"]["campaign.secrets"]

    assert label() == label()
    assert label() != label(redis_api_password="another-value-of-this-password")
    assert re.fullmatch(r"([0-9a-f]{12}-){6}[0-9a-f]{12}", label())


def test_without_such_a_service_nothing_is_added():
    compose = yaml.safe_load(build({"stack_variant": "prod"})["files"][0]["content"])
    assert set(compose["networks"]) == {"backend-network", "frontend-network"}
    assert [name for name, service in compose["services"].items() if "labels" in service or "AWS_REGION" in service.get("environment", {})] == []


@pytest.mark.parametrize(
    ("text", "secrets", "message"),
    [
        ('{"a": "1", "b": "s3cret"}', {"a": "1", "b": "s3cret"}, None),
        ("{}", {}, None),
        ('{"a": 1, "b": "s3cret", "c": null}', {"b": "s3cret"}, "a, c: not a string"),
        ("s3cret", {}, "is not a JSON object"),
        ('["s3cret"]', {}, "is not a JSON object"),
        (b"s3cret", {}, "is not a JSON object"),
        (None, {}, "is not a JSON object"),
    ],
)
def test_the_text_of_a_secret_of_aws_is_a_json_object_of_strings(text, secrets, message):
    answer = aws.parse(text)
    assert answer.secrets == secrets
    assert len(answer.problems) == (message is not None)
    assert message is None or message in answer.problems[0]
    assert "s3cret" not in "".join(answer.problems)


def failure(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "s3cret"}}, "GetSecretValue")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (failure("ResourceNotFoundException"), "there is no such secret. Check stack_aws_secret_id and stack_aws_region,"),
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
        text = aws.explain(aws.code_of(wrapped if not isinstance(error, RuntimeError) else error))
    assert message in text
    assert "s3cret" not in text
    # What it means, what to do, and the name by which others find it.
    assert re.fullmatch(r"(the|there|reading|its) [^\n]+[.a-z] \(\w+\)(\. Try again later, [a-z_ ,]+\.)?", text)


ONE, TWO = ("one", VaultSecret(b"x")), ("two", VaultSecret(b"y"))


@pytest.mark.parametrize(
    ("secrets", "identity", "message"),
    [
        ([], None, "--ask-vault-pass"),
        ([], "one", "--ask-vault-pass"),
        ([ONE, TWO], None, r"several vault passwords \(one, two\).*ANSIBLE_VAULT_ENCRYPT_IDENTITY"),
        ([ONE], "two", "two"),
        ([ONE, ("one", VaultSecret(b"y"))], None, "several vault passwords named one"),
        ([ONE, ("one", VaultSecret(b"y")), TWO], "one", "several vault passwords named one"),
    ],
)
def test_a_vault_needs_one_password_to_encrypt_with(secrets, identity, message):
    with pytest.raises((AnsibleActionFail, AnsibleError), match=message):
        encrypted(["a"], "v", [], secrets, identity)


@pytest.mark.parametrize(("secrets", "identity", "key"), [([ONE], None, ONE), ([ONE, ONE], None, ONE), ([ONE, TWO], "two", TWO), ([ONE, TWO], "one", ONE)])
def test_a_vault_is_encrypted_with_the_password_that_is_named(secrets, identity, key):
    text = encrypted(["a", "b"], "v", ["w"], secrets, identity)
    assert text.splitlines()[0] == f"$ANSIBLE_VAULT;1.2;AES256;{key[0]}"
    values = yaml.safe_load(VaultLib([key]).decrypt(text))
    assert list(values) == ["v", "w"]
    assert list(values["v"]) == ["a", "b"]
    made = [*values["v"].values(), values["w"]]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[\w-]{43}", value) for value in made)


def test_every_vault_is_another():
    password = [("default", VaultSecret(b"x"))]
    assert encrypted(["a"], "v", [], password, None) != encrypted(["a"], "v", [], password, None)


@pytest.mark.parametrize("value", ["Password12345678", "qwertyuiopasdfgh", "Tr0ub4dour&3aaaa", "P@ssw0rd!P@ssw0rd!", "iloveyou19871987", "19871224Michael1"])
def test_what_a_dictionary_finds_is_refused_in_prod_only(value):
    rules = {"operator_password": {"pattern": "[\\s\\S]{8,}", "hint": "a password", "strong": 16}}
    (problem,) = secret_problems({"stack_secrets": {"operator_password": value}}, rules, strict=True)
    assert "can be guessed" in problem
    assert value not in problem
    assert secret_problems({"stack_secrets": {"operator_password": value}}, rules) == []


@pytest.mark.parametrize("value", ["correct horse battery staple", "30c5d4c53aa4b4d2", "GHUKxmay5Ih_koJn"])
def test_what_is_hard_to_guess_is_taken(value):
    rules = {"operator_password": {"pattern": "[\\s\\S]{8,}", "hint": "a password", "strong": 16}}
    assert secret_problems({"stack_secrets": {"operator_password": value}}, rules, strict=True) == []
