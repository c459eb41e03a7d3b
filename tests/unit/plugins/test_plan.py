# SPDX-License-Identifier: GPL-3.0-or-later
"""How secrets, configs, layers and settings become a release."""

import json
import os

import pytest
import yaml
from ansible.errors import AnsibleFilterError, AnsibleLookupError
from ansible_collections.campaign.platform.plugins.filter.compose_layer import compose_layer
from ansible_collections.campaign.platform.plugins.filter.config_files import config_files
from ansible_collections.campaign.platform.plugins.filter.env_local_secrets import env_local_secrets
from ansible_collections.campaign.platform.plugins.filter.failure_text import failure_text
from ansible_collections.campaign.platform.plugins.filter.release_plan import release_plan
from ansible_collections.campaign.platform.plugins.filter.secret_files import secret_files
from ansible_collections.campaign.platform.plugins.filter.setting_problems import setting_problems
from ansible_collections.campaign.platform.plugins.lookup import image_plan as image_lookup
from ansible_collections.campaign.platform.plugins.lookup.generated_secrets import generated_secrets

SERVICES = {"api": {"user": "10001:10002"}}


def generation(value: str, key: str = "key") -> str:
    return secret_files({"api": {"jwt": value}}, SERVICES, key, "/s")[0]["source"]


def test_a_secret_file_belongs_to_its_consumer():
    (file,) = secret_files({"api": {"jwt": "value"}}, SERVICES, "key", "/s")
    assert (file["uid"], file["gid"], file["target"], file["content"]) == (10001, 10002, "jwt", "value")
    assert file["path"] == f"/s/{file['source']}"


def test_a_generation_follows_value_and_key_and_shows_neither():
    assert generation("one") == generation("one")
    assert len({generation("one"), generation("two"), generation("one", "other")}) == 3
    assert "one" not in generation("one")


@pytest.mark.parametrize("user", [None, "root", "1000", "node:node"])
def test_a_consumer_needs_a_numeric_user(user):
    with pytest.raises(AnsibleFilterError, match="api takes secrets"):
        secret_files({"api": {"jwt": "value"}}, {"api": {"user": user}}, "key", "/s")


def test_a_config_file_lies_under_its_content():
    one, two, same = config_files([{"configs": [{"service": "s", "target": "/etc/x.conf", "content": text} for text in ("1", "2", "1")]}], "/opt")
    assert one["path"] == same["path"] != two["path"]
    assert one["source"] == f"/opt/{one['path']}"
    assert one["path"].endswith("/x.conf")


def test_layers_merge_as_compose_does():
    catalogue = [{"dev": {"services": {"a": {"ports": ["1"], "image": "x"}}}}, {"dev": {"services": {"a": {"ports": ["2"], "image": "y"}}}}]
    assert compose_layer(catalogue, "dev") == {"services": {"a": {"ports": ["1", "2"], "image": "y"}}}
    assert compose_layer(catalogue, "prod") == {}


def test_a_service_s_own_key_wins_over_the_common_one():
    catalogue = [{"base": {"services": {"a": {"restart": "no"}, "b": {}}}}]
    merged = compose_layer(catalogue, "base", common={"restart": "unless-stopped"})
    assert merged["services"] == {"a": {"restart": "no"}, "b": {"restart": "unless-stopped"}}


def plan(secret="value", setting="1", image="image:1"):
    catalogue = [
        {
            "base": {"services": {"api": {"image": image, "user": "1:1"}, "job": {"image": image, "profiles": ["job"]}}},
            "dev": {"services": {"vite": {"image": image}}},
            "secrets": {"api": {"jwt": secret}},
            "jobs": ["job"],
        }
    ]
    return release_plan(catalogue, "dev", {"init": True}, {"backend": {}}, {"PORT": setting}, "key", "/opt/x", "project")


def test_the_same_inputs_are_the_same_release():
    assert plan() == plan()
    assert len({plan()["release"], plan(secret="other")["release"], plan(setting="2")["release"], plan(image="image:2")["release"]}) == 4


def test_a_plan_tells_services_from_jobs():
    assert sorted(plan()["services"]) == sorted(plan()["foundations"]) == ["api", "vite"]
    assert plan()["jobs"] == ["job"]


def test_a_plan_knows_the_image_that_runs():
    catalogue = [{"base": {"services": {"api": {"image": "api:1"}, "redis": {"image": "redis:1"}}}, "dev": {"services": {"api": {"image": "dev:1"}}}}]
    assert release_plan(catalogue, "dev", {}, {}, {}, "key", "/opt/x", "project")["images"] == {"api": "dev:1", "redis": "redis:1"}


def test_a_service_that_fetches_its_secrets_follows_what_the_controller_knows_of_them():
    def labels(value):
        catalogue = [
            {"base": {"services": {"api": {"image": "a", "user": "1:1"}}}, "secrets": {"api": {"jwt": value}}},
            {"secrets": {"api": {}}},
        ]
        made = release_plan(catalogue, "dev", {}, {}, {}, "key", "/opt/x", "project")
        assert made["secrets"] == []
        return yaml.safe_load(made["files"][0]["content"])["services"]["api"]["labels"]

    assert labels("one") == labels("one") != labels("two")
    assert "one" not in str(labels("one"))


def test_a_plan_s_files_hold_no_secret():
    assert "value" not in json.dumps(plan(secret="value-of-the-secret")["files"])


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
        ({"ELSE": "a"}, "Known are PORT, NAME"),
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
    assert env_local_secrets(values, {"JWT_SECRET": "jwt_secret", "OTHER": "other"}) == {
        "jwt_secret": "j",
        "postgres_api_user": "us/er",
        "postgres_api_password": "p@ss+word",
    }


def test_generated_secrets_are_kept(tmp_path):
    path = tmp_path / "state" / "secrets.json"
    first = generated_secrets(["a", "b"], str(path), True)
    assert generated_secrets(["a", "b", "c"], str(path), True) == {**first, "c": generated_secrets(["c"], str(path), True)["c"]}
    assert len(set(first.values())) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_check_run_keeps_nothing_and_agrees_with_itself(tmp_path):
    path = tmp_path / "secrets.json"
    assert generated_secrets(["a"], str(path), False) == generated_secrets(["a"], str(path), False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", '{"a": ""}', '{"a": 1}', "no json"])
def test_a_damaged_file_of_secrets_is_not_overwritten(tmp_path, content):
    path = tmp_path / "secrets.json"
    path.write_text(content)
    with pytest.raises(AnsibleLookupError, match=r"[Rr]estore"):
        generated_secrets(["b"], str(path), True)
    assert path.read_text() == content


def test_a_failure_shows_item_message_and_the_end_of_standard_error():
    result = {"ansible_loop_var": "x", "x": "job", "msg": "failed", "stderr": "\n".join(str(line) for line in range(99))}
    assert failure_text(result).splitlines() == ["job: failed", *(str(line) for line in range(84, 99))]


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setattr(image_lookup, "_digests", {})
    (tmp_path / "app").mkdir()
    (tmp_path / "app/file").write_text("content")
    (tmp_path / "app/.dockerignore").write_text("**/node_modules\n")
    return tmp_path


def images(directory, source="build", revision="1", lock=None, **upstream):
    image_lookup._digests.clear()
    catalogue = {"base": {"suite": "trixie"}, "node": {"upstream": "docker.io/node:1", "context": "app", "parents": {"BASE": "base"}}}
    catalogue["api"] = {"context": "app", "target": "runtime", "parents": {"NODE": "node"}}
    return image_lookup.image_plan(catalogue, str(directory), source, "p/", "mirror/", upstream, revision, lock or {})


def test_an_image_s_tag_follows_what_goes_into_it(context):
    before = images(context)
    assert images(context) == before
    (context / "app/node_modules").mkdir()
    (context / "app/node_modules/x").write_text("ignored")
    os.utime(context / "app/file", (1, 1))
    assert images(context) == before
    (context / "app/file").write_text("changed")
    assert images(context)["api"]["reference"] != before["api"]["reference"]
    assert images(context)["base"]["reference"] == before["base"]["reference"]
    assert images(context, revision="2")["base"]["reference"] != before["base"]["reference"]


def test_parents_come_first_and_are_arguments(context):
    plan = images(context)
    assert plan["api"]["parents"] == ["base", "node"]
    assert plan["api"]["args"] == {"NODE": plan["node"]["reference"]}


def test_pulled_images_have_no_parents_and_go_through_the_mirror(context):
    plan = images(context, source="pull")
    assert (plan["node"]["reference"], plan["node"]["pull"]) == ("mirror/docker.io/node:1", True)
    assert plan["api"]["pull"] is False
    assert plan["api"]["args"] == {"NODE": "mirror/docker.io/node:1"}
    assert images(context, api="own/api:1")["api"]["reference"] == "mirror/own/api:1"


def test_a_locked_reference_is_pulled_by_its_digest(context):
    lock = {"mirror/docker.io/node:1": "sha256:" + "0" * 64, "docker.io/node:1": "sha256:" + "1" * 64}
    assert images(context, source="pull", lock=lock)["node"]["reference"] == "mirror/docker.io/node:1@sha256:" + "0" * 64
    assert images(context, source="pull", lock=lock)["node"]["tagged"] == "mirror/docker.io/node:1"
    assert images(context, source="build", lock=lock)["node"]["pull"] is False


def test_an_ignore_file_that_is_not_understood_is_refused(context):
    (context / "app/.dockerignore").write_text("!packages/x\n")
    with pytest.raises(AnsibleLookupError, match="beyond what image_plan understands"):
        images(context)
