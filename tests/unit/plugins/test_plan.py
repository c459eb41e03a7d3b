# SPDX-License-Identifier: GPL-3.0-or-later
"""How secrets, configs, layers and settings become a release."""

import pytest
from ansible_collections.campaign.platform.plugins.plugin_utils.catalogue import merge
from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import url_credentials
from ansible_collections.campaign.platform.plugins.plugin_utils.generated import GeneratedSecretsError, generated_secrets
from ansible_collections.campaign.platform.plugins.plugin_utils.release import config_files, secret_files
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import setting_problems
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import TextError

SERVICES = {"api": {"user": "10001:10002"}}


def generation(value: str, key: str = "key") -> str:
    return secret_files({"api": {"jwt": value}}, SERVICES, key, "/s")[0]["source"]


def test_a_secret_file_belongs_to_its_consumer():
    (file,) = secret_files({"api": {"jwt": "value"}, "page": {}}, SERVICES, "key", "/s")
    assert (file["uid"], file["gid"], file["target"], file["content"]) == (10001, 10002, "jwt", "value")
    assert file["path"] == f"/s/{file['source']}"


def test_a_generation_follows_value_and_key_and_shows_neither():
    assert generation("one") == generation("one")
    assert len({generation("one"), generation("two"), generation("one", "other")}) == 3
    assert "one" not in generation("one")


@pytest.mark.parametrize("user", [None, "root", "1000", "node:node"])
def test_a_consumer_needs_a_numeric_user(user):
    with pytest.raises(TextError, match="api reads secrets"):
        secret_files({"api": {"jwt": "value"}}, {"api": {"user": user}}, "key", "/s")


def test_a_config_file_lies_under_its_content():
    files = config_files({name: {"/etc/x.conf": text} for name, text in (("a", "1"), ("b", "2"), ("c", "1"))}, "/opt")
    one, two, same = files
    assert one["path"] == same["path"] != two["path"]
    assert one["source"] == f"/opt/{one['path']}"
    assert one["path"].endswith("/x.conf")
    assert [file["service"] for file in files] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("left", "right", "merged"),
    [
        ({"ports": ["1"], "image": "x"}, {"ports": ["2"], "image": "y"}, {"ports": ["1", "2"], "image": "y"}),
        ({"command": ["a"]}, {"command": ["b"]}, {"command": ["b"]}),
        ({"healthcheck": {"test": ["a"], "retries": 3}}, {"healthcheck": {"test": ["b"]}}, {"healthcheck": {"test": ["b"], "retries": 3}}),
    ],
)
def test_layers_merge_as_compose_does(left, right, merged):
    assert merge(left, right) == merged


RULES = {
    "PORT": {"minimum": 1, "maximum": 9, "hint": "a port"},
    "NAME": {"pattern": "[a-z]+", "hint": "letters"},
    "SOURCE": {"network": True, "hint": "a network"},
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PORT": "0"}, "PORT must be a port, but it is out of range"),
        ({"PORT": 10}, "out of range"),
        ({"PORT": "http"}, "4 characters of letters"),
        ({"PORT": True}, "PORT must be a port"),
        ({"NAME": ""}, "it is empty"),
        ({"NAME": "s3cret"}, "letters, digits"),
        ({"NAME": "a\nb"}, "blanks, control characters"),
        ({"NAMES": "a"}, "Did you mean NAME?"),
        ({"name": "a"}, "Did you mean NAME?"),
        ({"ELSE": "a"}, "Known are NAME, PORT"),
        ({"SOURCE": "192.0.2.7/24"}, "SOURCE must be a network, but it is 12 characters"),
        ({"SOURCE": "192.0.2.7"}, "SOURCE must be a network"),
        ({"SOURCE": "2001:db8::/32"}, "SOURCE must be a network"),
        ({4711: "a"}, "4711 is not a known setting"),
    ],
)
def test_a_wrong_setting_is_named_and_not_shown(values, message):
    (problem,) = setting_problems(values, RULES, "source")
    assert problem.startswith("source: ")
    assert message in problem
    assert "s3cret" not in problem


def test_right_settings_are_no_problem():
    assert setting_problems({"PORT": "9", "NAME": "abc", "SOURCE": "192.0.2.0/24"}, RULES, "source") == []


def test_credentials_are_taken_out_of_urls():
    values = {"DATABASE_URL": "postgres://us%2Fer:p%40ss+word@postgres:5432/db", "REDIS_URL": "redis://redis:6379", "JWT_SECRET": "j"}
    rows = {name: {"user": f"{kind}_user", "password": f"{kind}_password"} for name, kind in (("DATABASE_URL", "postgres"), ("REDIS_URL", "redis"))}
    assert url_credentials(values, rows) == {"postgres_user": "us/er", "postgres_password": "p@ss+word"}


def test_generated_secrets_are_kept(tmp_path):
    path = tmp_path / "state" / "secrets.json"
    first = generated_secrets(["a", "b"], str(path), persist=True)
    assert generated_secrets(["a", "b", "c"], str(path), persist=True) == {**first, "c": generated_secrets(["c"], str(path), persist=True)["c"]}
    assert len(set(first.values())) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_check_run_keeps_nothing(tmp_path):
    path = tmp_path / "secrets.json"
    assert set(generated_secrets(["a"], str(path), persist=False)) == {"a"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", '{"a": ""}', '{"a": 1}', "no json"])
def test_a_damaged_file_of_secrets_is_not_overwritten(tmp_path, content):
    path = tmp_path / "secrets.json"
    path.write_text(content)
    with pytest.raises(GeneratedSecretsError, match=r"[Rr]estore"):
        generated_secrets(["b"], str(path), persist=True)
    assert path.read_text() == content
