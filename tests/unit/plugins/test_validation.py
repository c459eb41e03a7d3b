# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles images and docker_host declare of their inputs, and what they conclude from the facts of a host, with the roles' own variables."""

import functools
import json
import shutil

import program
import pytest
from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.plugin_utils import roles

DIGEST = "sha256:" + "0123456789ab" + "0" * 52
FACTS = {
    "images_source": None,
    "images_built": [],
    "images": {},
    "distribution": {"id": "debian", "version_id": "13"},
    "apt_sources": {"uri": "http://a/debian"},
}


@functools.cache
def own(role):
    """Return a role's defaults and vars, with their expressions."""
    found = {}
    for path in [program.ROOT / f"roles/{role}/defaults/main.yml", *sorted((program.ROOT / f"roles/{role}/vars").rglob("*.yml"))]:
        found |= program.LOADER.load_from_file(str(path), trusted_as_template=True)
    return found


def context(role, given, facts=None):
    values = {**own(role), "role_path": str(program.ROOT / "roles" / role), "ansible_connection": "local", **program.trusted(given)}
    values |= {"ansible_facts": {"campaign_host": facts}} if facts else {}
    return values, Templar(loader=program.LOADER, variables=values)


def declared(role="images", **given):
    values, templar = context(role, given)
    return roles.declare(values, templar, program.LOADER, with_secrets=False)


def looked(validated, tables=(), facts=None, **given):
    values, templar = context("images", {"images_source": validated["source"], **given}, {**FACTS, **(facts or {})})
    return roles.look({**values, "__images_validated": validated}, templar, tables)


def right(**given):
    found, problems = declared(**given)
    assert problems == []
    return found


# --- Images


def test_the_plans_of_both_sources_are_declared_and_what_a_host_is_asked_for():
    found = right(images_required=["redis", "api", "redis"], images_source="build")
    assert set(found) == {"source", "required", "plans", "candidates", "tagged"}
    assert (found["source"], found["required"]) == ("build", ["redis", "api"])
    assert set(found["plans"]) == {"pull", "build"}
    for plan in found["plans"].values():
        assert {plan[key]["reference"] for key in ("redis", "api")} <= set(found["candidates"])
    # Of what is pulled; the api is built on what is.
    assert set(found["tagged"]) == {"redis", "node"}


@pytest.mark.parametrize(
    ("given", "key", "begins"),
    [
        ({"images_prefix": "shop/"}, "api", "shop/api:"),
        ({"images_registry": "mirror.example.com/"}, "redis", "mirror.example.com/"),
        ({"images_upstream": {"redis": "registry.example.com/own:9"}}, "redis", "registry.example.com/own:9"),
    ],
)
def test_names_are_what_the_inputs_say(given, key, begins):
    assert right(images_required=[key], images_source="pull", **given)["plans"]["pull"][key]["reference"].startswith(begins)


def test_another_revision_gives_other_tags():
    built = [right(images_required=["api"], images_source="build", images_revision=revision)["plans"]["build"]["api"]["reference"] for revision in ("1", "2")]
    assert built[0] != built[1]


def test_what_a_lock_names_is_pulled_by_its_digest():
    (tagged,) = right(images_required=["redis"])["tagged"].values()
    found = right(images_required=["redis"], images_lock={tagged: DIGEST}, images_lock_required=True)
    assert found["plans"]["pull"]["redis"]["reference"].endswith(f"@{DIGEST}")


def test_a_lock_that_is_required_names_everything():
    _found, (problem,) = declared(images_required=["redis"], images_lock_required=True)
    assert problem.startswith("images_lock_required is set, but images_lock has no digest of ")
    assert right(images_required=["redis"], images_lock_required=True, images_source="build")


def test_another_machine_builds_nothing():
    _found, (problem,) = declared(images_required=["redis", "api"], ansible_connection="ssh")
    assert problem.startswith("images_upstream does not name api, ")


def test_an_image_that_nothing_describes_is_refused():
    _found, (problem,) = declared(images_required=["redis", "nowhere"])
    assert "nowhere" in problem
    assert "redis" not in problem.split(".")[0]


def test_a_dockerfile_that_is_not_there_is_named_with_the_variable_of_its_context(tmp_path):
    (tmp_path / "file").touch()
    given = {"images_required": ["own"], "images_source": "build", "images_definitions": {"own": {"context": str(tmp_path)}}}
    _found, problems = declared(**given)
    assert problems == [f"images_definitions.own: {tmp_path}/Dockerfile is not there, but the image own is built from it. Create it, or name another."]
    shutil.copytree(program.ROOT / "files/app", tmp_path / "app", ignore=lambda *_names: {"Dockerfile", "node_modules"})
    _found, problems = declared(images_required=["api"], images_source="build", images_app_source=str(tmp_path / "app"))
    assert {problem.partition(", but")[0] for problem in problems} == {
        f"images_app_source: {tmp_path}/app/{name} is not there" for name in ("Dockerfile", "packages/api/Dockerfile")
    }


def test_a_password_of_a_registry_needs_no_file_of_secrets_where_none_is_given():
    assert declared(images_required=["redis"], images_registry_host="r.example.com", images_registry_username="me", images_registry_password="x" * 20)[1] == []


def test_a_bundle_that_is_not_there_is_named(tmp_path):
    _found, (problem,) = declared(images_required=["redis"], images_source="load", images_bundle=str(tmp_path / "none.tar"))
    assert problem.startswith("images_bundle: ")


def test_a_bare_host_lacks_all_images_and_builds_them_with_their_parents():
    validated = right(images_required=["redis"], images_source="build")
    found, problems = looked(validated)
    plan = validated["plans"]["build"]
    keys = [*plan["redis"]["parents"], "redis"]
    assert problems == []
    assert (found["source"], found["chosen"]) == ("build", True)
    assert found["references"] == {key: image["reference"] for key, image in plan.items()}
    assert [image["key"] for image in found["missing"]] == keys == found["built"]
    assert found["pulled"] == []
    assert found["bases"] == [key for key in keys if plan[key].get("suite")] != []
    assert found["from_debian"] == [key for key in keys if plan[key].get("suite") or plan[key].get("base_suite")]
    assert found["mirror"] == "http://a/debian"
    assert (found["platform"], found["load_mb"]) == (None, 0)


def test_a_host_that_has_the_images_lacks_none():
    validated = right(images_required=["redis"], images_source="build")
    images = {image["reference"]: "sha256:1" for image in validated["plans"]["build"].values()}
    assert looked(validated, facts={"images": images})[0]["missing"] == []


def test_what_is_pulled_is_told_with_what_no_lock_names():
    validated = right(images_required=["redis"], images_source="pull")
    found, _problems = looked(validated)
    reference = validated["plans"]["pull"]["redis"]["reference"]
    assert (found["pulled"], found["built"], found["not_locked"]) == ([reference], [], [reference])


def test_what_is_loaded_is_told_with_the_disk_that_it_takes():
    layers = {"a": {"size": 2 << 20, "packed": 1 << 20}}
    image = {"key": "redis", "how": "load", "parents": [], "reference": "campaign/redis:1", "id": "sha256:1", "layers": ["a"]}
    validated = {"source": "load", "required": ["redis"], "plans": {"load": {"redis": image}}, "bundle": {"platform": "linux/amd64", "layers": layers}}
    found, _problems = looked(validated)
    assert (found["missing"], found["pulled"], found["built"]) == ([image], [], [])
    assert (found["platform"], found["load_mb"]) == ("linux/amd64", 3)
    found, _problems = looked(validated, facts={"images": {"campaign/redis:1": "sha256:1"}})
    assert (found["missing"], found["load_mb"]) == ([], 0)


@pytest.mark.parametrize(("recorded", "source", "chosen"), [(None, "build", False), ("pull", "pull", True), ("build", "build", True)])
def test_auto_is_what_the_host_has_a_record_of(recorded, source, chosen):
    found, _problems = looked(right(images_required=["redis"], images_source="auto"), facts={"images_source": recorded})
    assert (found["source"], found["chosen"]) == (source, chosen)


def test_what_a_registry_did_not_have_is_built_again_where_the_source_is_a_record():
    validated = right(images_required=["redis", "postgis"], images_source="auto")
    facts = {"images_source": "pull", "images_built": ["redis", "not-in-the-plan"]}
    found, _problems = looked(validated, facts=facts)
    assert "redis" in found["built"]
    assert found["pulled"] == [validated["plans"]["pull"]["postgis"]["reference"]]
    named, _problems = looked({**validated, "source": "pull"}, facts=facts)
    assert named["built"] == []


ASKED = {"images_required": ["redis"], "images_source": "auto"}


@pytest.mark.parametrize(
    ("answer", "source", "chosen"),
    [
        ({"skipped": True}, "build", False),
        ({"failed": True, "digests": {}}, "build", True),
        ({"digests": {"docker.io/library/redis:8.2": "sha256:1"}}, "pull", True),
    ],
    ids=["not asked", "no answer", "answer"],
)
def test_a_check_predicts_what_a_deploy_would_choose(answer, source, chosen):
    found = looked(right(**ASKED), __images_answer=answer)[0]
    assert (found["source"], found["chosen"]) == (source, chosen)
    assert {image["how"] for image in found["missing"]} == {source}


def test_a_check_predicts_that_what_a_registry_does_not_have_is_built():
    asked = {**ASKED, "images_required": ["redis", "node"]}
    found = looked(right(**asked), __images_answer={"digests": {right(**asked)["tagged"]["node"]: "sha256:1"}})[0]
    assert (found["source"], "redis" in found["built"], "node" in found["built"]) == ("pull", True, False)


def test_what_was_recorded_counts_and_no_answer_does():
    found = looked(right(**ASKED), facts={"images_source": "build"}, __images_answer={"digests": {"docker.io/library/redis:8.2": "sha256:1"}})[0]
    assert found["source"] == "build"


def test_a_mirror_that_is_given_wins_over_the_machine_s_own():
    assert looked(right(images_required=["redis"], images_source="build"), images_debian_mirror="http://b/debian")[0]["mirror"] == "http://b/debian"


# --- The Docker host

HOST = {
    "engine": None,
    "engine_installed": False,
    "engine_error": "no such file",
    "compose": None,
    "buildx": None,
    "client": {},
    "architecture": "amd64",
    "memory_mb": 4096,
    "disk_free_mb": 9000,
    "addresses": ["192.0.2.7"],
    "distribution": {"id": "debian", "version_id": "12"},
    "apt_sources": {"uri": "http://a/debian"},
    "ports": [],
}


def on_host(changed=None, **given):
    values, templar = context("docker_host", given, {**HOST, **(changed or {})})
    return roles.look(values, templar, ["host"])


def test_a_bare_host_is_given_docker_by_its_distribution():
    found, problems = on_host()
    assert problems == []
    assert found == {
        "release": "debian 12",
        "lacking": ["engine", "compose", "buildx"],
        "is_new": True,
        "packages": ["python3-requests", "docker.io", "iptables", "docker-compose", "docker-buildx"],
        "taken": [],
        "away": [],
    }


def test_docker_s_own_packages_are_named_by_their_own_names():
    found, problems = on_host({"distribution": {"id": "fedora", "version_id": "44"}}, docker_host_source="docker")
    assert problems == []
    assert found["packages"][1:3] == ["docker-ce", "docker-ce-cli"]


def test_another_distribution_is_refused_with_those_that_are_known():
    found, (problem,) = on_host({"distribution": {"id": "fedora", "version_id": "44"}})
    assert problem.startswith("fedora 44 is none of debian 12, debian 13, ubuntu 24.04.")
    assert found["packages"] == ["python3-requests"]


def test_a_port_and_an_address_that_cannot_be_had_are_refused():
    row = {"address": "192.0.2.9", "port": 80, "busy": True, "project": "other", "local": False, "docker": False}
    found, problems = on_host({"ports": [row]})
    assert (found["taken"], found["away"]) == ([80], ["192.0.2.9"])
    assert [problem.partition(",")[0].partition(".")[0] for problem in problems] == ["The machine has no address 192", "Something else listens on port 80"]
    assert on_host({"ports": [{**row, "local": True}]}, docker_host_project="other")[1] == []


def test_rules_between_the_host_s_variables_are_asked():
    assert declared("docker_host") == ({}, [])
    _found, problems = declared("docker_host", docker_host_source="docker")
    assert [problem.split()[0] for problem in problems] == ["docker_host_repository_url", "docker_host_repository_key_url"]
    # A value that is wrong by itself is told first.
    assert declared("docker_host", docker_host_source="docker", docker_host_log_max_size="big")[1] != problems


def test_what_is_declared_can_be_written_down():
    json.dumps(right(images_required=["redis"]))
