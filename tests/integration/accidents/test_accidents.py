# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a machine between two deploys ends well, or in one sentence before anything is touched.

The playbooks themselves run against this machine's Engine, as a project of their own. The tests are one story, and each leaves a stack that the next one
deploys again.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import docker, write_inventory

ROOT = Path(__file__).resolve().parents[3]
PROJECT = "campaign-accidents"
DIRECTORY = Path("/opt") / PROJECT
STORED = {f"{PROJECT}_{name}-data" for name in ("postgres", "redis", "minio")}
PORTS = {name: 21080 + number for number, name in enumerate(("frontend", "api", "minio", "minio_console", "postgres", "redis"))}
PROXY = "http://192.0.2.1:3128"
# Everything that would be somebody else's wish: of the release's settings, of Compose, of Docker's client and of Python's.
HOSTILE = {
    "LOG_LEVEL": "debug",
    "POSTGRES_USER": "other",
    "POSTGRES_DB": "other_db",
    "S3_BUCKET": "other",
    "FRONTEND_PORT": "28099",
    "REDIS_PORT": "28098",
    "BIND_ADDRESS": "0.0.0.0",
    "COMPOSE_FILE": "/nowhere/compose.yml",
    "COMPOSE_PROJECT_NAME": "other",
    "COMPOSE_PROFILES": "job",
    "COMPOSE_ENV_FILES": "/nowhere/.env",
    "COMPOSE_IGNORE_ORPHANS": "1",
    "COMPOSE_REMOVE_ORPHANS": "0",
    "COMPOSE_PARALLEL_LIMIT": "1",
    "COMPOSE_STATUS_STDOUT": "1",
    "COMPOSE_ANSI": "always",
    "COMPOSE_CONVERT_WINDOWS_PATHS": "1",
    "COMPOSE_EXPERIMENTAL": "1",
    "COMPOSE_BAKE": "true",
    "COMPOSE_MENU": "true",
    "COMPOSE_PATH_SEPARATOR": ";",
    "DOCKER_API_VERSION": "1.12",
    "DOCKER_CUSTOM_HEADERS": "A=b",
    "HTTP_PROXY": PROXY,
    "http_proxy": PROXY,
}


def names(kind: str) -> list[str]:
    """Return the ids of the containers, or the names of volumes or networks, that bear the project's label."""
    every = ["--all"] if kind == "container" else []
    return docker(kind, "ls", *every, "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()


def containers() -> dict[str, dict]:
    """Return what the Engine says of each service's container."""
    listed = names("container")
    inspected = json.loads(docker("inspect", *listed)) if listed else []
    return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in inspected}


def sweep() -> None:
    for kind, options in (("container", ["--force", "--volumes"]), ("network", []), ("volume", [])):
        if found := names(kind):
            docker(kind, "rm", *options, *found)


@pytest.fixture(scope="module")
def inventory(tmp_path_factory) -> Iterator[Path]:
    sweep()
    subprocess.run(["rm", "-rf", str(DIRECTORY)], check=True)
    directory = tmp_path_factory.mktemp("accidents")
    path = directory / "hosts.yml"
    write_inventory(path, PROJECT, PORTS)
    yield path
    sweep()
    subprocess.run(["rm", "-rf", str(DIRECTORY)], check=True)


@pytest.fixture(scope="module")
def play(inventory):
    """Run a playbook; return its exit status, the number of changes and what it printed."""

    def run(playbook: str = "site", environment: dict[str, str] | None = None, **variables) -> tuple[int, int, str]:
        command = ["ansible-playbook", "-i", str(inventory), f"playbooks/{playbook}.yml", "-e", json.dumps(variables)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DOCKER_", "BUILDX_"))}
        env = {**clean, "ANSIBLE_NOCOLOR": "1", **(environment or {})}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=400)
        output = done.stdout + done.stderr
        recap = [line for line in output.splitlines() if line.startswith("this_machine ")]
        changed = int(recap[0].split("changed=")[1].split()[0]) if recap else -1
        return done.returncode, changed, " ".join(output.split())

    return run


@pytest.fixture(scope="module")
def deployed(play):
    def run(**options) -> int:
        status, changed, output = play(**options)
        assert status == 0, output[-4000:]
        return changed

    return run


def refused(play, *words: str, **options) -> None:
    """See that a deploy is refused with these words, and that nothing changed."""
    before = (names("container"), names("volume"), names("network"), DIRECTORY.exists())
    status, changed, output = play(**options)
    assert (status, changed) == (2, 0), output[-3000:]
    for word in words:
        assert word in output
    assert (names("container"), names("volume"), names("network"), DIRECTORY.exists()) == before


# --- Before there is a stack


@pytest.fixture
def stranger(tmp_path):
    """A Compose project of the same name, started from another directory."""
    image = docker("images", "--quiet", "--filter", "reference=campaign/redis").split()[0]
    (tmp_path / "compose.yml").write_text(json.dumps({"services": {"web": {"image": image, "command": ["sleep", "600"], "network_mode": "none"}}}))
    compose = ["compose", "--project-name", PROJECT, "--project-directory", str(tmp_path), "--file", str(tmp_path / "compose.yml")]
    docker(*compose, "up", "--detach")
    yield str(tmp_path)
    docker(*compose, "down", "--timeout", "0")


def test_a_project_of_the_same_name_is_left_alone(play, stranger):
    refused(play, stranger, "stack_project")
    refused(play, stranger, playbook="down")


@pytest.mark.parametrize(("kind", "name"), [("volume", "redis-data"), ("network", "backend-network")])
def test_what_bears_our_names_without_our_label_is_left_alone(play, kind, name):
    docker(kind, "create", f"{PROJECT}_{name}")
    try:
        refused(play, f"The {kind} {PROJECT}_{name} belongs to no Compose project", "stack_project")
    finally:
        docker(kind, "rm", f"{PROJECT}_{name}")


def test_data_of_an_older_postgresql_is_left_alone(play):
    name = f"{PROJECT}_postgres-data"
    docker("volume", "create", "--label", f"com.docker.compose.project={PROJECT}", name)
    try:
        data = Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", name)) / "17/docker"
        data.mkdir(parents=True)
        (data / "PG_VERSION").write_text("17\n")
        # With secrets of its own, as it is not about theirs.
        refused(play, "data of PostgreSQL 17 (17/docker)", "PostgreSQL 18", stack_secrets={"postgres_password": "x" * 32})
    finally:
        docker("volume", "rm", name)


def test_an_address_that_the_machine_does_not_have_is_refused(play):
    refused(play, "no address 203.0.113.10", "It has", stack_bind_address="203.0.113.10")


def test_another_engine_is_refused_by_the_name_of_the_setting(play):
    refused(play, "DOCKER_HOST=tcp://192.0.2.1:2375", environment={"DOCKER_HOST": "tcp://192.0.2.1:2375"})


# --- A first deploy that fails, and one in an environment that wants something else


def test_a_first_deploy_that_failed_is_taken_down_whole(play, deployed):
    status, _changed, output = play(stack_health_timeout=1)
    assert status == 2, output[-3000:]
    assert {"postgres", "redis", "minio"} <= set(containers())
    # Plain Compose finds its files too.
    listed = subprocess.run(["docker", "compose", "ps", "--quiet"], cwd=DIRECTORY, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0, listed.stderr
    # Those that run, of which there are none: what was never verified is not reachable.
    assert listed.stdout.split() == []
    assert "The containers were stopped, so that no port is open." in output
    assert not [item["Name"] for item in containers().values() if item["State"]["Running"]]
    assert deployed(playbook="down") > 0
    assert (names("container"), names("network")) == ([], [])
    assert set(names("volume")) >= STORED
    assert deployed(playbook="down") == 0


def published(service: str) -> set[tuple[str, str]]:
    bindings = containers()[service]["HostConfig"]["PortBindings"]
    return {(binding["HostIp"], binding["HostPort"]) for found in bindings.values() for binding in found}


def test_the_environment_of_the_caller_is_not_part_of_what_runs(deployed, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": {"httpProxy": PROXY, "httpsProxy": PROXY, "noProxy": "x"}}}))
    environment = {**HOSTILE, "DOCKER_CONFIG": str(tmp_path)}
    deployed(environment=environment)
    found = containers()
    for service, container in found.items():
        values = dict(item.split("=", 1) for item in container["Config"]["Env"])
        assert PROXY not in values.values(), service
        assert not {"other", "other_db", "debug"} & set(values.values()), service
    assert published("frontend") == {("127.0.0.1", str(PORTS["frontend"])), ("127.0.0.1", str(PORTS["api"]))}
    assert published("redis") == {("127.0.0.1", str(PORTS["redis"]))}
    # Nor is what a second run finds: with the same environment, and without.
    assert deployed(environment=environment) == 0
    assert deployed() == 0
    assert {name: item["Id"] for name, item in containers().items()} == {name: item["Id"] for name, item in found.items()}


# --- Between two deploys


def test_networks_that_were_pruned_come_back(deployed):
    for container in names("container"):
        docker("stop", "--time", "30", container)
    # Only this project's: `docker network prune` would take those of others too.
    docker("network", "rm", *names("network"))
    assert deployed() > 0
    assert deployed() == 0


def test_new_volumes_get_their_jobs(deployed):
    done = subprocess.run(["docker", "compose", "--profile", "*", "down", "--volumes"], cwd=DIRECTORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert names("volume") == []
    assert deployed() > 0
    assert deployed() == 0


def test_a_store_may_take_the_port_of_the_page(deployed):
    swapped = {"stack_minio_console_port": PORTS["frontend"], "stack_frontend_port": PORTS["minio_console"]}
    assert deployed(**swapped) > 0
    assert published("frontend") == {("127.0.0.1", str(PORTS["minio_console"])), ("127.0.0.1", str(PORTS["api"]))}
    assert deployed(**swapped) == 0


def test_the_whole_stack_goes_down_from_another_variant(deployed):
    assert deployed(playbook="down", stack_variant="prod") > 0
    assert (names("container"), names("network")) == ([], [])
    assert set(names("volume")) >= STORED


# --- What goes wrong in a deploy


def test_a_service_that_listens_late_is_waited_for(deployed):
    late = {"command": ["-c", "sleep 30; exec node main.mjs"], "entrypoint": ["/bin/sh"]}
    health = {"interval": "1s", "retries": 2, "start_period": "1s"}
    entry = {"base": {"services": {"api": {**late, "healthcheck": health}}}}
    deployed(stack_hot_reload=False, stack_services={"api": entry}, stack_health_timeout=200)


def test_a_service_that_was_healthy_and_dies_is_not_taken_into_use(play, deployed):
    deployed(stack_hot_reload=False)
    entry = {"base": {"services": {"scheduler": {"command": ["-c", "node main.mjs & sleep 12; exit 9"], "entrypoint": ["/bin/sh"]}}}}
    status, _changed, output = play(stack_hot_reload=False, stack_services={"scheduler": entry}, stack_settle_seconds=20)
    assert status == 2
    assert "scheduler, stability: expected to stay healthy for 20 s" in output, output[-3000:]
    assert "was started again and is verified" in output
    assert play("verify")[0] == 0


def test_the_way_back_leads_over_a_change_of_hot_reload(play, deployed):
    deployed(stack_hot_reload=True)
    assert "vite" in str(containers()["page"]["Config"]["Cmd"])
    image = containers()["frontend"]["Config"]["Image"]
    status, _changed, output = play(stack_hot_reload=False, images_upstream={"redis": image}, stack_health_timeout=30)
    assert status == 2
    assert "was started again and is verified" in output, output[-3000:]
    assert "vite" in str(containers()["page"]["Config"]["Cmd"])
    assert play("verify")[0] == 0
    last = json.loads((DIRECTORY / "history.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["release"]) == ("rolled_back", os.readlink(DIRECTORY / "attempted").rpartition("/")[2])


def test_a_person_goes_back_and_forth(play, deployed):
    deployed(stack_hot_reload=False, stack_log_level="info")
    deployed(stack_hot_reload=False, stack_log_level="debug")
    for level in ("info", "debug"):
        status, _changed, output = play("rollback")
        assert status == 0, output[-3000:]
        assert f"LOG_LEVEL={level}" in containers()["api"]["Config"]["Env"]
    status, changed, output = play("rollback", stack_rollback_to="000000000000")
    assert (status, changed) == (2, 0)
    assert "There is no release 000000000000 to go back to. Nothing was changed." in output


def sql(statement: str) -> str:
    return docker("exec", f"{PROJECT}-postgres-1", "psql", "-v", "ON_ERROR_STOP=1", "-qtA", "-U", "campaign_user", "-d", "campaign_db", "-c", statement)


def test_an_older_release_runs_on_a_newer_schema_that_allows_it(play, deployed):
    deployed(stack_log_level="info")
    sql("INSERT INTO campaign.kysely_migration VALUES ('0009_later', now()::text); INSERT INTO campaign.schema_versions VALUES ('0009_later', NULL)")
    deployed(stack_log_level="debug")
    sql("UPDATE campaign.schema_versions SET removes = 'the column campaigns.place' WHERE name = '0009_later'")
    before = {service: item["Id"] for service, item in containers().items() if item["State"]["Running"]}
    status, _changed, output = play(stack_log_level="info")
    assert status == 2
    assert "does not run on it: it lacks the column campaigns.place. Deploy a newer version, or restore a backup" in output, output[-3000:]
    assert {service: item["Id"] for service, item in containers().items() if item["State"]["Running"]} == before
    # What runs can be deployed again, as often as anybody likes.
    deployed(stack_log_level="debug")
    sql("DELETE FROM campaign.kysely_migration WHERE name = '0009_later'; DELETE FROM campaign.schema_versions WHERE name = '0009_later'")
