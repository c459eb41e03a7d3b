# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way on a host is refused with its name, its owner and what to do, by the rows of the role stack."""

import program
import pytest
from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.modules import host_facts
from ansible_collections.campaign.platform.plugins.plugin_utils import holder, hosts, roles

NAMES = {
    "volumes": {"postgres-data": "p_postgres-data", "redis-data": "p_redis-data", "page-assets": "p_page-assets"},
    "locked_volumes": ["p_postgres-data", "p_redis-data"],
    "networks": {"backend-network": "p_backend-network"},
    "data": {"volume": "p_postgres-data", "target": "/var/lib/postgresql/", "pgdata": None},
}
OURS = {"project": "p", "files": {}}


def told(
    tmp_path,
    *,
    tables=("host",),
    engine="29.0.0",
    volumes=None,
    networks=None,
    elsewhere=(),
    names=NAMES,
    check=False,
    image_variables=None,
    lock=None,
    **given,
) -> list[str]:
    """Return the messages for a host whose facts are these; the generated secrets are kept unless ``given`` says otherwise."""
    (tmp_path / "kept.json").write_text("{}")
    owned = {"elsewhere": list(elsewhere), "volumes": volumes or {}, "networks": networks or {}}
    facts = {"engine": engine and {"version": engine}, "engine_error": "no such file", "owned": owned, "image_variables": image_variables or {}}
    facts["stack"] = {"lock": lock}
    values = {
        **program.variables_of({"stack_project": "p", "stack_generate_secrets": True, "stack_generated_secrets_file": f"{tmp_path}/kept.json", **given}),
        "ansible_facts": {"campaign_host": facts},
        "ansible_check_mode": check,
        "__stack_validated": names,
    }
    return roles.look(values, Templar(loader=program.LOADER, variables=values), tables)[1]


def test_a_host_with_nothing_in_the_way(tmp_path):
    assert told(tmp_path) == []
    assert told(tmp_path, volumes={"p_postgres-data": OURS, "p_redis-data": OURS}, networks={"p_backend-network": {"project": "p"}}) == []
    assert told(tmp_path, volumes={"p_postgres-data": {**OURS, "files": {"18/docker/PG_VERSION": "18"}}}) == []
    # Of that name, and none of the stack's.
    assert told(tmp_path, volumes={"p_more": {"project": None, "files": {}}}) == []


HELD = {"user": "ann", "controller": "laptop", "machine": "m", "pid": 7, "run": "m-7-1", "since": "2026-11-01T10:00:00Z", "age": 5.0}


def test_another_run_is_told_before_images_are_brought(tmp_path):
    (message,) = told(tmp_path, lock=HELD)
    assert "Another run works on this stack: ann@laptop, process 7" in message
    # A check changes nothing, and a lease ends by itself.
    assert told(tmp_path, lock=HELD, check=True) == []
    assert told(tmp_path, lock=HELD, stack_lock_takeover=True) == []
    assert told(tmp_path, lock={**HELD, "age": 90.0}) == []
    # The clock was set back.
    assert told(tmp_path, lock={**HELD, "age": -3600.0}) == []


def test_a_run_does_not_stand_in_its_own_way(tmp_path):
    own = holder.of_this_run({})
    assert told(tmp_path, lock={**own, "since": "2026-11-01T10:00:00Z", "age": 1.0}) == []
    # One of this machine that has ended is known to have.
    ended = {**HELD, "machine": own["machine"], "run": "another"}
    assert told(tmp_path, lock=ended) == []


def test_another_project_of_the_name_is_told_with_its_directory(tmp_path):
    (message,) = told(tmp_path, elsewhere=["/srv/other"])
    for words in ("project named p", "/srv/other", "stack_project", "docker compose --project-name p down"):
        assert words in message


@pytest.mark.parametrize(("owner", "words"), [(None, "belongs to no Compose project"), ("q", "belongs to the Compose project q")])
@pytest.mark.parametrize("kind", ["volumes", "networks"])
def test_what_belongs_to_somebody_else_is_told_with_the_owner(tmp_path, kind, owner, words):
    name = next(iter(NAMES[kind].values()))
    (message,) = told(tmp_path, **{kind: {name: {"project": owner, "files": {}}}})
    assert f"The {kind[:-1]} {name} {words}." in message
    assert "stack_project" in message


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({}, False),
        ({"stack_generated_secrets_file": "/nowhere/secrets.json"}, True),
        ({"stack_generated_secrets_file": "/nowhere/secrets.json", "stack_secrets": {"postgres_password": "x"}}, False),
        ({"stack_generated_secrets_file": "/nowhere/secrets.json", "stack_env_local": {"POSTGRES_PASSWORD": "x"}}, False),
        ({"stack_generated_secrets_file": "/nowhere/secrets.json", "stack_generate_secrets": "false"}, False),
    ],
)
def test_no_secret_is_generated_beside_data_that_another_one_locks(tmp_path, given, refused):
    messages = told(tmp_path, volumes={"p_redis-data": OURS}, **given)
    assert bool(messages) is refused
    assert not refused or ("/nowhere/secrets.json" in messages[0] and "p_redis-data" in messages[0])
    assert told(tmp_path, **given) == []
    # What a page left is open to everybody.
    assert told(tmp_path, volumes={"p_page-assets": OURS}, **given) == []


def test_data_of_another_major_is_told_with_both(tmp_path):
    (message,) = told(tmp_path, volumes={"p_postgres-data": {**OURS, "files": {"data/PG_VERSION": "16"}}})
    assert "p_postgres-data holds data of PostgreSQL 16 (data), and this release has PostgreSQL 18" in message
    assert "campaign.platform.upgrade_postgres" in message
    # Each database of a cluster has a file of that name too.
    files = {"PG_VERSION": "16", "base/1/PG_VERSION": "16", "base/16384/PG_VERSION": "16"}
    (message,) = told(tmp_path, volumes={"p_postgres-data": {**OURS, "files": files}})
    assert "p_postgres-data holds data of PostgreSQL 16 (at its top), and this release has PostgreSQL 18" in message
    # With a server outside, the volume is not the release's.
    outside = {**NAMES, "volumes": {}, "data": {"volume": None, "target": "", "pgdata": None}}
    assert told(tmp_path, names=outside, volumes={"p_postgres-data": {**OURS, "files": {"data/PG_VERSION": "16"}}}) == []


@pytest.mark.parametrize(("has", "holds", "refused"), [("19", "18", True), ("18", "18", False), ("17", "17", False), ("17", "18", True), (None, "18", False)])
def test_what_counts_is_the_version_that_the_image_on_the_host_has(tmp_path, has, holds, refused):
    volumes = {"p_postgres-data": {**OURS, "files": {f"{holds}/docker/PG_VERSION": holds}}}
    variables = {"example/postgis:any": {"PG_MAJOR": has} if has else {}}
    messages = told(tmp_path, volumes=volumes, image_variables=variables, stack_images={"postgis": "example/postgis:any"})
    assert bool(messages) is refused
    assert not refused or f"holds data of PostgreSQL {holds} ({holds}/docker), and this release has PostgreSQL {has}, which reads {has}/docker" in messages[0]


def test_before_the_images_are_known_the_collection_s_own_count(tmp_path):
    volumes = {"p_postgres-data": {**OURS, "files": {"17/docker/PG_VERSION": "17"}}}
    (message,) = told(tmp_path, volumes=volumes, stack_images=program.trusted("{{ images_references }}"))
    assert "this release has PostgreSQL 18" in message


def test_data_counts_where_the_release_tells_the_server_to_look(tmp_path):
    names = {**NAMES, "data": {**NAMES["data"], "pgdata": "/var/lib/postgresql/pgdata"}}
    assert told(tmp_path, names=names, volumes={"p_postgres-data": {**OURS, "files": {"pgdata/PG_VERSION": "18"}}}) == []
    (message,) = told(tmp_path, names=names, volumes={"p_postgres-data": {**OURS, "files": {"pgdata/PG_VERSION": "17"}}})
    assert "holds data of PostgreSQL 17 (pgdata), and this release has PostgreSQL 18, which reads pgdata only" in message


@pytest.mark.parametrize(
    ("pgdata", "target", "file", "refused"),
    [
        ("/var/lib/postgresql/pgdata", "/var/lib/postgresql/", "pgdata/PG_VERSION", False),
        ("/var/lib/postgresql/data", "/var/lib/postgresql/data/", "PG_VERSION", False),
        ("/var/lib/postgresql/18/docker", "/var/lib/postgresql/", "pgdata/PG_VERSION", True),
        # It is not on the host yet.
        (None, "/var/lib/postgresql/", "pgdata/PG_VERSION", False),
    ],
)
def test_data_counts_where_the_image_looks(tmp_path, pgdata, target, file, refused):
    names = {**NAMES, "data": {**NAMES["data"], "target": target}}
    said = {"example/postgis:any": {"PG_MAJOR": "18", "PGDATA": pgdata}} if pgdata else {}
    given = {"names": names, "image_variables": said, "stack_images": {"postgis": "example/postgis:any"}}
    assert bool(told(tmp_path, volumes={"p_postgres-data": {**OURS, "files": {file: "18"}}}, **given)) is refused
    # Of another major it does not count anywhere.
    assert told(tmp_path, volumes={"p_postgres-data": {**OURS, "files": {file: "17"}}}, **given)


def test_data_that_nobody_can_read_is_not_taken_for_none(tmp_path):
    (message,) = told(tmp_path, volumes={"p_postgres-data": {**OURS, "files": None}})
    assert "p_postgres-data cannot be read" in message


@pytest.mark.parametrize(("engine", "check", "refused"), [("29.0.0", False, False), (None, False, True), (None, True, False)])
def test_an_engine_that_does_not_answer_is_no_empty_one(tmp_path, engine, check, refused):
    messages = told(tmp_path, tables=("engine", "host"), engine=engine, check=check)
    assert bool(messages) is refused
    assert not refused or "The Docker Engine does not answer: no such file" in messages[0]


def test_the_names_on_the_host_are_those_that_compose_gives():
    found = program.summary(program.VARIANTS["local"] | {"stack_project": "p", "stack_secrets": program.placeholders(program.secret_names())})
    assert found["volumes"] == {name: f"p_{name}" for name in ("postgres-data", "redis-data", "minio-data", "page-assets")}
    assert found["locked_volumes"] == ["p_minio-data", "p_postgres-data", "p_redis-data"]
    assert set(found["networks"]) == {"backend-network", "frontend-network", "published-network"}
    added = {"x": {"base": {"services": {"x": {"image": "x:1"}}, "volumes": {"a": {"name": "n"}, "b": {"external": True}}}}}
    given = {"stack_services": added, "stack_project": "p", "stack_secrets": program.placeholders(program.secret_names(added))}
    found = program.summary(program.VARIANTS["local"] | given)
    assert found["volumes"]["a"] == "n"
    assert "b" not in found["volumes"]


def asked(validated) -> dict[str, list[str]]:
    """Return the files that the host is asked for, by the volume."""
    values = program.variables_of({"__stack_validated": validated})
    return Templar(loader=program.LOADER, variables=values).template(values["stack_volume_files"])


@pytest.mark.parametrize("place", [".", "data", "pgdata", "17/docker", "data/pgdata"])
def test_the_host_is_asked_for_a_cluster_wherever_it_lies(tmp_path, place):
    for path in (tmp_path / place, tmp_path / place / "base/5"):
        path.mkdir(parents=True, exist_ok=True)
        (path / "PG_VERSION").write_text("17\n")
    found = host_facts.volume_files({"Mountpoint": str(tmp_path)}, asked(NAMES)["p_postgres-data"])
    assert hosts.data_of_another_major(found, "18", "18/docker") == [f"17 ({'at its top' if place == '.' else place})"]


@pytest.mark.parametrize(
    ("service", "volume", "place"),
    [
        ({}, "p_postgres-data", None),
        ({"environment": {"PGDATA": "/var/lib/postgresql/pgdata"}}, "p_postgres-data", "pgdata"),
        ({"environment": {"PGDATA": "/var/lib/postgresql"}}, "p_postgres-data", "."),
        # Of two in one place, Compose takes the later one.
        ({"volumes": ["mine:/var/lib/postgresql:rw"]}, "p_mine", None),
        ({"volumes": [{"type": "volume", "source": "mine", "target": "/srv/pg"}], "environment": {"PGDATA": "/srv/pg/1/data"}}, "p_mine", "1/data"),
        ({"volumes": ["mine:/dumps"]}, "p_postgres-data", None),
        ({"volumes": ["postgres-data:/dumps"]}, "p_postgres-data", None),
        # What Compose fills in is not known here.
        ({"environment": {"PGDATA": "${NOWHERE:-/elsewhere}"}}, "p_postgres-data", None),
        ({"environment": {"PGDATA": "/elsewhere"}}, None, None),
    ],
)
def test_a_release_says_where_its_data_is(service, volume, place):
    changed = {"postgres": {"base": {"services": {"postgres": service}, "volumes": {"mine": {}}}}}
    given = {"stack_project": "p", "stack_secrets": program.placeholders(program.secret_names())}
    found = program.summary(program.VARIANTS["local"] | given | {"stack_services": changed})["data"]
    assert (found["volume"], hosts.place_of_data(found["target"], found["pgdata"])) == (volume, place)


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ({"external": True, "name": "old_pg"}, "old_pg"),
        ({"external": True}, "postgres-data"),
        ({"name": "old_pg"}, "old_pg"),
        ({"external": {"name": "old_pg"}}, "old_pg"),
        ({"external": False}, "p_postgres-data"),
    ],
)
def test_data_of_another_major_is_told_whatever_the_volume_is_called(tmp_path, declared, name):
    changed = {"postgres": {"base": {"volumes": {"postgres-data": declared}}}}
    given = {"stack_services": changed, "stack_project": "p", "stack_secrets": program.placeholders(program.secret_names())}
    found = program.summary(program.VARIANTS["local"] | given)
    assert list(asked(found)) == [name]
    project = "p" if name.startswith("p_") else None
    volumes = {name: {"project": project, "files": {"17/docker/PG_VERSION": "17"}}}
    (message,) = told(tmp_path, names=found, volumes=volumes)
    assert f"The volume {name} holds data of PostgreSQL 17 (17/docker)" in message
    assert told(tmp_path, names=found, volumes={name: {"project": project, "files": {"18/docker/PG_VERSION": "18"}}}) == []
    # What is asked for and not said is not known either, and what is not there has no data. Only containers may be able to read what is not the project's.
    for unread in ({"files": None}, {}):
        messages = told(tmp_path, names=found, volumes={name: {"project": project, **unread}})
        assert [f"The volume {name} cannot be read" in message for message in messages] == ([True] if project else [])
    assert told(tmp_path, names=found) == []


def test_a_server_outside_has_no_data_here():
    given = {"stack_postgres_external": {"host": "db.example.com"}, "stack_secrets": program.placeholders(program.secret_names())}
    found = program.summary(program.VARIANTS["local"] | given)
    assert found["data"] == {"volume": None, "target": "", "pgdata": None}
    assert asked(found).keys() <= {""}


def test_a_release_says_which_service_has_which_port():
    ports = program.build(program.VARIANTS["local"])["manifest"]["ports"]
    assert ports["minio"] == [["127.0.0.1", 9000], ["127.0.0.1", 9001]]
    assert ports["frontend"] == [["127.0.0.1", 8080], ["127.0.0.1", 3000]]
