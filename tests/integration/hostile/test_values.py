# SPDX-License-Identifier: GPL-3.0-or-later
"""Each hostile value on each path is equal where it arrives, or refused by name without being shown."""

import base64
import re
from urllib.parse import quote, unquote

import pytest
from ansible_collections.campaign.platform.plugins.lookup.env_file import parse_env
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import secret_problems
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import TextError, to_compose, to_env_file

from .conftest import HARMLESS, JOINED, quoted, secret_name
from .stack import SECRETS, SETTINGS, TABLES, declare
from .values import BECOMES_NO_TEXT, KEYS, OPEN_SETTINGS, REFUSED, VALUES, password

by_kind = pytest.mark.parametrize("kind", VALUES)
# A message is made of the source, the name and the rule; of the value it tells the length and the kinds of characters.
SHAPE = r"(it is empty|it is \d+ characters of [a-z, ]+|it is out of range)"


def decoded(entries) -> list[bytes]:
    return [base64.b64decode(entry) for entry in entries]


def refuses_nul(problem: str, render) -> None:
    with pytest.raises(TextError, match="holds a NUL") as caught:
        render(VALUES["NUL"])
    assert problem in str(caught.value)
    assert VALUES["NUL"] not in str(caught.value)


# Into the container.


@by_kind
def test_environment(arrived, kind):
    """From .env.local through the release's .env and Compose's interpolation."""
    if kind == "NUL":
        refuses_nul("API_PORT", lambda value: to_env_file({"API_PORT": value}))
    else:
        assert f"{KEYS[kind]}={VALUES[kind]}".encode() in decoded(arrived.report["environment"])


@by_kind
def test_environment_in_the_compose_file(arrived, kind):
    if kind == "NUL":
        refuses_nul("services.api.environment.A", lambda value: to_compose({"services": {"api": {"environment": {"A": value}}}}))
    else:
        assert f"LITERAL_{KEYS[kind]}={VALUES[kind]}".encode() in decoded(arrived.report["environment"])


@by_kind
def test_label_in_the_compose_file(arrived, kind):
    if kind == "NUL":
        refuses_nul("services.api.labels.a", lambda value: to_compose({"services": {"api": {"labels": {"a": value}}}}))
    else:
        assert arrived.labels[KEYS[kind].lower()] == VALUES[kind]


@by_kind
def test_argument_in_the_compose_file(arrived, kind):
    if kind == "NUL":
        refuses_nul("services.api.command.1", lambda value: to_compose({"services": {"api": {"command": ["a", value]}}}))
    else:
        _node, _script, *arguments = decoded(arrived.report["argumentList"])
        assert arguments[[sent for sent in VALUES if sent != "NUL"].index(kind)] == VALUES[kind].encode()


@by_kind
def test_secret_file(arrived, kind):
    """From a vault file. A file may hold NUL; that no secret does, its rule sees to."""
    assert base64.b64decode(arrived.report["secrets"][secret_name(KEYS[kind])]) == VALUES[kind].encode()


@by_kind
def test_config_file(arrived, kind):
    """From a vault file through a template."""
    assert base64.b64decode(arrived.report["configs"][KEYS[kind]]) == f"<{VALUES[kind]}>\n".encode()


# Through the validation.


@by_kind
@pytest.mark.parametrize("name", REFUSED)
def test_secret_is_taken_or_refused_by_name(name, kind):
    value = password(kind)
    problems = secret_problems({"stack_secrets": {name: value}}, SECRETS.rules)
    if kind not in REFUSED[name]:
        assert problems == []
    else:
        (problem,) = problems
        assert re.fullmatch(rf"stack_secrets: {name} must be {re.escape(SECRETS.rules[name]['hint'])}, but {SHAPE}\.", problem), problem


def env_local_problems(**values: str) -> list[str]:
    """What is wrong with values of .env.local beside harmless secrets."""
    declared, _renderer = declare(stack_env_local=values, stack_secrets=HARMLESS)
    return declared.problems


@by_kind
def test_setting_is_taken_or_refused_by_name(kind):
    problems = {name: env_local_problems(**{name: VALUES[kind]}) for name in SETTINGS}
    for name, found in problems.items():
        hint = re.escape(SETTINGS[name]["hint"])
        assert found == [] or (len(found) == 1 and re.fullmatch(rf"\.env\.local: {name} must be {hint}, but {SHAPE}\.", found[0])), found
    assert {name for name, found in problems.items() if not found} == OPEN_SETTINGS.get(kind, set())


# Into .env.local.


@by_kind
def test_double_quotes_in_env_local(kind):
    assert parse_env(f"A={quoted(VALUES[kind])}\nB=next\n") == {"A": VALUES[kind], "B": "next"}


def complaint(text: str) -> str:
    try:
        parse_env(text)
    except ValueError as error:
        return str(error)
    return ""


def is_refused_or(expected: str, text: str) -> None:
    problem = complaint(text)
    if problem:
        assert re.match(r"line \d+: (A|NAME|this|a carriage)", problem), problem
        assert len(expected) < 5 or expected not in problem
    else:
        assert parse_env(text) == {"A": expected, "B": "next"}


@by_kind
def test_single_quotes_in_env_local(kind):
    is_refused_or(VALUES[kind], f"A='{VALUES[kind]}'\nB=next\n")


# With a newline it would be two lines.
@pytest.mark.parametrize("kind", [kind for kind, value in VALUES.items() if "\n" not in value])
def test_no_quotes_in_env_local(kind):
    """The blanks around the value are none of it."""
    is_refused_or(VALUES[kind].strip(" \t"), f"A={VALUES[kind]}\nB=next\n")


@by_kind
@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_password_in_a_url_of_env_local(name, kind):
    value, secret = password(kind), {"DATABASE_URL": "postgres_api", "REDIS_URL": "redis_api"}[name]
    address = {"DATABASE_URL": "postgres://hostile:{}@postgres:5432/campaign_db", "REDIS_URL": "redis://hostile:{}@redis:6379"}[name]
    for text, is_encoded in ((quote(value, safe=""), True), (value, False)):
        declared, _renderer = declare(stack_env_local={name: address.format(text)}, stack_secrets=HARMLESS)
        if declared.problems:
            place, hint = (".env.local", TABLES.urls[name]["hint"])
            if declared.problems[0].startswith("DATABASE_URL or REDIS_URL in .env.local: "):
                place, hint = ("DATABASE_URL or REDIS_URL in .env.local", SECRETS.rules[f"{secret}_password"]["hint"])
            expected = rf"{re.escape(place)}: ({name}|{secret}_password) must be {re.escape(hint)}, but {SHAPE}\."
            assert re.fullmatch(expected, declared.problems[0]), declared.problems
            # Encoded, everything is taken that may be a password at all.
            assert not is_encoded or kind in REFUSED[f"{secret}_password"]
        else:
            given = {item: declared.secrets.values[f"{secret}_{item}"] for item in ("user", "password")}
            assert given == {"user": "hostile", "password": value if is_encoded else unquote(value, errors="strict")}


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize("text", ["a%zz-too-long", "100%-too-long", "a%ff-too-long", "a%ed%a0%bd-too-long"])
def test_what_is_wrongly_encoded_is_refused(name, text):
    host = {"DATABASE_URL": "postgres:5432/campaign_db", "REDIS_URL": "redis:6379"}[name]
    problems = env_local_problems(**{name: f"{host.split(':')[0]}://hostile:{text}@{host}"})
    assert problems
    assert problems[0].startswith(f".env.local: {name} must be ")
    assert text not in problems[0]


@pytest.mark.parametrize("name", REFUSED)
def test_half_a_surrogate_pair_is_refused(name):
    (problem,) = secret_problems({"stack_secrets": {name: "half-of-\ud83d-a-pair"}}, SECRETS.rules)
    assert problem.startswith(f"stack_secrets: {name} must be ")


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("postgres")])
@pytest.mark.parametrize("value", ["md5" + "0123456789abcdef" * 2, "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"])
def test_what_postgres_takes_for_a_hash_is_refused(name, value):
    (problem,) = secret_problems({"stack_secrets": {name: value}}, SECRETS.rules)
    assert problem.startswith(f"stack_secrets: {name} must be ")


# Into logins.


@by_kind
def test_url(arrived, kind):
    """The password in the URL that a service is handed, as Node.js reads it."""
    if kind in REFUSED["postgres_api_password"]:
        assert arrived.logins[KEYS[kind]]["url"] == "harmless-postgres_api_password"
    else:
        assert unquote(arrived.logins[KEYS[kind]]["url"], errors="strict") == password(kind)


@by_kind
@pytest.mark.parametrize("server", ["postgres", "redis", "s3"])
def test_login(arrived, server, kind):
    """With the client of the services; where the value is refused the login goes by another one, and shows that the test is sound."""
    assert arrived.logins[KEYS[kind]][server] == "ok"
    assert re.search("28P01|WRONGPASS|403|Forbidden|SignatureDoesNotMatch", arrived.logins[KEYS[kind]][f"{server}_wrong"])


@by_kind
def test_bootstrap_of_postgres_and_password_file(arrived, kind):
    """The login made by the bootstrap, and libpq's password file."""
    assert arrived.postgres.get(KEYS[kind], "") == ""


@by_kind
def test_bootstrap_of_minio(arrived, kind):
    """Both keys through the standard input of MinIO's client, and the policy attached."""
    assert arrived.minio.get(KEYS[kind], "") == ""


@pytest.mark.parametrize("server", ["postgres", "s3"])
def test_superuser(arrived, server):
    """One password of all the values that the servers take for their own; postgres reads it from a file, MinIO its name as well."""
    assert arrived.logins["JOINED"][server] == "ok"
    assert arrived.logins["JOINED"][f"{server}_wrong"] != "ok"
    assert (arrived.postgres.get("JOINED", ""), arrived.minio.get("JOINED", "")) == ("", "")


def test_a_key_with_the_name_of_its_policy(arrived):
    """The bootstrap looks for the policy's name in what the server says of the key."""
    assert arrived.logins["NAMED"]["s3"] == "ok"
    assert arrived.minio.get("NAMED", "") == ""


@pytest.mark.parametrize("name", JOINED)
def test_superuser_is_made_of_what_is_taken(name):
    assert secret_problems({"stack_secrets": {name: JOINED[name]}}, SECRETS.rules) == []


# Out of the inventory.


@by_kind
def test_encrypt_string(sources, kind):
    """Encrypted by itself, a value is not a template."""
    assert sources["encrypt_string"][KEYS[kind]] == VALUES[kind]


@by_kind
def test_unsafe(sources, kind):
    """After !unsafe Ansible reads a text as if it had no quotes; what is not text then is refused."""
    found = sources["unsafe"][KEYS[kind]]
    if kind in BECOMES_NO_TEXT:
        assert not isinstance(found, str)
        (problem,) = secret_problems({"stack_secrets": {"jwt_secret": found}}, SECRETS.rules)
        assert problem.startswith("stack_secrets: jwt_secret must be a string.")
    else:
        assert found == VALUES[kind]


def test_a_text_of_an_inventory_is_a_template(sources):
    """Why !unsafe is needed: without it this is what happens."""
    assert sources["template"] == "a2b"
