# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL, Redis or S3 outside the stack: what a deploy would stage then, and what it refuses."""

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"
EXTERNAL = {
    "postgres": {"stack_postgres_external": {"host": "db.example.com", "ca": CA}},
    "redis": {"stack_redis_external": {"host": "cache.example.com"}},
    "s3": {"stack_s3_external": {"endpoint": "https://s3.example.com", "path_style": False}},
}
# The bundled service of each and all words by which a file could mention it.
TRACES = {
    "postgres": re.compile(r"postgres-data|POSTGRES_PORT|service_healthy.*postgres\b|^  postgres:|shm_size", re.MULTILINE),
    "redis": re.compile(r"redis-data|REDIS_PORT|^  redis:|redis-server|redis\.conf|aclfile|redis_acl", re.MULTILINE),
    "s3": re.compile(r"minio", re.IGNORECASE),
}
BUNDLED = {"postgres": "postgres", "redis": "redis", "s3": "minio"}
CONSUMERS = {
    "postgres": {"api", "api-migrate", "rules-engine", "scheduler", "postgres-bootstrap"},
    "redis": {"api", "rules-engine", "scheduler"},
    "s3": {"api"},
}
COMBINATIONS = [*((part,) for part in EXTERNAL), tuple(EXTERNAL)]


def run(command: list[str], **env) -> None:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def variables_of(combination: tuple[str, ...]) -> dict:
    return {name: value for part in combination for name, value in EXTERNAL[part].items()}


@pytest.fixture(scope="module", params=COMBINATIONS, ids="+".join)
def rendered(request, tmp_path_factory) -> tuple[tuple[str, ...], Path]:
    directory = tmp_path_factory.mktemp("rendered")
    run(["tests/golden/render", str(directory), json.dumps(variables_of(request.param)), "local", "prod"])
    return request.param, directory


def composed(directory: Path, variant: str) -> tuple[dict, dict]:
    base = yaml.safe_load((directory / variant / "docker-compose.yml").read_text())
    override = next(path for path in (directory / variant).glob("docker-compose.*.yml"))
    return base, yaml.safe_load(override.read_text())


@pytest.mark.parametrize("variant", ["local", "prod"])
def test_the_bundled_service_leaves_no_trace(rendered, variant):
    combination, directory = rendered
    for path in (directory / variant).iterdir():
        text = path.read_text()
        for part in combination:
            assert not TRACES[part].search(text), f"{path.name}: {TRACES[part].search(text)}"
    base, override = composed(directory, variant)
    for part, service in BUNDLED.items():
        there = part not in combination
        assert (service in base["services"]) == there
        assert (f"{service}-data" in base["volumes"] if base.get("volumes") else False) == there
        assert there or service not in override["services"]


@pytest.mark.parametrize("variant", ["local", "prod"])
def test_consumers_wait_for_what_is_there_and_reach_what_is_not(rendered, variant):
    combination, directory = rendered
    base, _override = composed(directory, variant)
    outside = {consumer for part in combination for consumer in CONSUMERS[part]}
    assert base["networks"]["backend-network"] == {"internal": True}
    assert base["networks"]["egress-network"] == {}
    for name, service in base["services"].items():
        assert ("egress-network" in service["networks"]) == (name in outside), name
        assert len(service["networks"]) == len(set(service["networks"])), name
        assert set(service.get("depends_on", {})) <= set(base["services"]), name
        for part in combination:
            assert BUNDLED[part] not in service.get("depends_on", {}), name


def test_the_ca_reaches_those_who_verify_with_it(rendered):
    combination, directory = rendered
    base, _override = composed(directory, "prod")
    for name, service in base["services"].items():
        mounted = {volume["target"] for volume in service.get("volumes", []) if isinstance(volume, dict)}
        environment = service.get("environment", {})
        if "postgres" in combination and name == "postgres-bootstrap":
            assert environment["PGSSLMODE"] == "verify-full"
            assert environment["PGSSLROOTCERT"] in mounted
        elif "postgres" in combination and name in CONSUMERS["postgres"]:
            assert environment["NODE_EXTRA_CA_CERTS"] in mounted
        else:
            assert "NODE_EXTRA_CA_CERTS" not in environment
    if "s3" in combination:
        assert 'S3_ENDPOINT="https://s3.example.com"' in (directory / "prod/.env").read_text().splitlines()
        assert base["services"]["api"]["environment"]["S3_PATH_STYLE"] == "false"


def playbook(directory: Path, tasks: list[dict]) -> Path:
    """A playbook that knows the role's variables, as site.yml does."""
    validate = {"name": "Validate", "ansible.builtin.import_role": {"name": "campaign.platform.stack", "tasks_from": "validate.yml"}}
    secrets = {
        "stack_variant": "local",
        "stack_images": {},
        "stack_generate_secrets": True,
        "stack_generated_secrets_file": str(directory / "generated.json"),
        # Beside an inventory by default, and this play has none.
        "stack_vault_file": str(directory / "vault.yml"),
    }
    path = directory / "playbook.yml"
    path.write_text(yaml.safe_dump([{"name": "Evaluate", "hosts": "localhost", "gather_facts": False, "vars": secrets, "tasks": [validate, *tasks]}]))
    return path


def evaluate(directory: Path, expressions: list[tuple[str, dict]]) -> list:
    """Evaluate expressions, each with variables of its own."""
    tasks = [
        {"name": f"{number}", "ansible.builtin.debug": {"msg": f"{{{{ {expression} | to_json }}}}"}, "vars": variables}
        for number, (expression, variables) in enumerate(expressions)
    ]
    run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook(directory, tasks))],
        HOME=str(directory),
        ANSIBLE_CALLBACK_PLUGINS=str(ROOT / "tests/input/plugins/callback"),
        ANSIBLE_CALLBACKS_ENABLED="outcomes",
        OUTCOMES=str(directory / "outcomes"),
    )
    found = [json.loads(line) for line in (directory / "outcomes").read_text().splitlines()]
    answers = {line["task"]: line["message"] for line in found}
    return [json.loads(answers[str(number)]) for number in range(len(expressions))]


def test_images_ports_and_checks_of_the_bundled_service_are_gone(tmp_path):
    names = ["stack_required_images", "stack_published_ports | map(attribute='port')", "__stack_checks"]
    bundled, outside = (
        dict(zip(("images", "ports", "checks"), answers, strict=True))
        for answers in itertools.batched(evaluate(tmp_path, [(name, variables) for variables in ({}, variables_of(tuple(EXTERNAL))) for name in names]), 3)
    )
    # The client of the bootstrap comes with the image of PostgreSQL.
    assert set(bundled["images"]) - set(outside["images"]) == {"redis", "minio"}
    assert "postgis" in outside["images"]
    assert set(bundled["ports"]) - set(outside["ports"]) == {5432, 6379, 9000, 9001}
    assert {check["service"] for check in bundled["checks"]} - {check["service"] for check in outside["checks"]} == {"postgres", "redis", "minio"}
    (before,), (after,) = ([check["expect"] for check in checks["checks"] if check["name"] == "dependencies as the api"] for checks in (bundled, outside))
    assert set(before) - set(after) == {"s3_default_credentials"}


POSTGRES, REDIS, S3 = "stack_postgres_external", "stack_redis_external", "stack_s3_external"
WRONG = [
    ({POSTGRES: {}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": ""}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "postgres"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "Minio"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "localhost"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "127.0.0.1"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "db.example.com:5432"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "me:canary@db.example.com"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "db.example.com", "port": 0}}, f"{POSTGRES}: port must be"),
    ({POSTGRES: {"host": "db.example.com", "port": "pg"}}, f"{POSTGRES}: port must be"),
    ({POSTGRES: {"host": "db.example.com", "tls": True}}, f"{POSTGRES}: tls must be"),
    ({POSTGRES: {"host": "db.example.com", "tls": "prefer"}}, f"{POSTGRES}: tls must be"),
    ({POSTGRES: {"host": "db.example.com", "ca": "canary"}}, f"{POSTGRES}: ca must be"),
    ({POSTGRES: {"host": "db.example.com", "ca": CA + KEY}}, f"{POSTGRES}: ca must be"),
    ({POSTGRES: {"host": "db.example.com", "ca": CA, "tls": "require"}}, f"{POSTGRES}: ca is of use"),
    ({POSTGRES: {"host": "db.example.com", "sslmode": "require"}}, f"{POSTGRES}: sslmode is not a known setting"),
    ({POSTGRES: {"host": "db.example.com", "password": "canary-canary"}}, f"{POSTGRES}: password is not a known setting"),
    ({POSTGRES: {"host": "db.example.com"}}, "stack_secrets.postgres_password is missing"),
    ({REDIS: {}}, f"{REDIS}: host must be"),
    ({REDIS: {"host": "redis"}}, f"{REDIS}: host must be"),
    ({REDIS: {"host": "cache.example.com", "port": 65536}}, f"{REDIS}: port must be"),
    ({REDIS: {"host": "cache.example.com", "tls": "on"}}, f"{REDIS}: tls must be"),
    ({REDIS: {"host": "cache.example.com", "tls": False, "ca": CA}}, f"{REDIS}: ca is of use"),
    ({REDIS: {"host": "cache.example.com"}}, "stack_secrets.redis_scheduler_password is missing"),
    ({S3: {}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "s3.example.com"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "http://minio:9000"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "http://127.0.0.1:9000"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "https://s3.example.com/bucket"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "https://key:canary@s3.example.com"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "https://s3.example.com", "path_style": "canary"}}, f"{S3}: path_style must be"),
    ({S3: {"endpoint": "http://s3.example.com", "ca": CA}}, f"{S3}: ca is of use"),
    ({S3: {"endpoint": "https://s3.example.com"}}, "stack_secrets.s3_secret_key is missing"),
    ({S3: {"endpoint": "https://s3.example.com"}, "stack_env_local": {"S3_ENDPOINT": "http://minio:9000"}}, ".env.local: S3_ENDPOINT is about"),
    ({S3: {"endpoint": "https://s3.example.com"}, "stack_env_local": {"MINIO_ROOT_USER": "canary"}}, ".env.local: MINIO_ROOT_USER is about"),
    ({REDIS: {"host": "cache.example.com"}, "stack_env_local": {"REDIS_URL": "redis://redis:6379"}}, ".env.local: REDIS_URL is about"),
    ({POSTGRES: {"host": "db.example.com"}, "stack_env_local": {"POSTGRES_PORT": "5432"}}, ".env.local: POSTGRES_PORT is about"),
    ({"stack_env_local": {"REDIS_URL": "redis://default:canary-canary@redis:6379"}}, "DATABASE_URL or REDIS_URL in .env.local: redis_api_user must be"),
    (
        {"stack_env_local": {"DATABASE_URL": "postgres://campaign_scheduler_login:canary-canary@postgres:5432/campaign_db"}},
        "DATABASE_URL or REDIS_URL in .env.local: postgres_api_user must",
    ),
]


def test_what_is_wrong_is_named_without_its_value(tmp_path):
    # Each list by itself, because all together are slow to evaluate.
    lists = {"stack_secrets.": "__stack_missing_secrets", "DATABASE_URL o": "__stack_secret_problems"}
    answers = evaluate(tmp_path, [(lists.get(message[:14], "__stack_external_problems"), variables) for variables, message in WRONG])
    for (variables, message), problems in zip(WRONG, answers, strict=True):
        assert any(problem.startswith(message) for problem in problems), f"{variables}: {problems}"
        assert "canary" not in "".join(problems), variables


def test_what_is_right_is_accepted(tmp_path):
    known = ["postgres_password", "redis_api_password", "redis_rules_engine_password", "redis_scheduler_password", "s3_access_key", "s3_secret_key"]
    given = {"stack_secrets": {name: "long enough" if name != "s3_access_key" else "key" for name in known}}
    accepted = [
        variables_of(tuple(EXTERNAL)),
        {POSTGRES: {"host": "10.0.0.5", "port": "6432", "tls": "require"}},
        {POSTGRES: {"host": "postgres.example.com", "tls": "disable"}},
        {REDIS: {"host": "redis-1", "tls": False}},
        {REDIS: {"host": "cache", "ca": CA}},
        {S3: {"endpoint": "http://10.0.0.5:9000/"}},
    ]
    assert evaluate(tmp_path, [("__stack_external_problems", variables | given) for variables in accepted]) == [[]] * len(accepted)
    assert evaluate(tmp_path, [("(__stack_value_problems + __stack_missing_secrets)", accepted[0] | given)]) == [[]]


def test_the_documented_rules_of_redis_are_those_of_the_stack():
    rules = yaml.safe_load((ROOT / "roles/stack/vars/main/redis_acl.yml").read_text())["__stack_redis_rules"]
    document = (ROOT / "docs/external-services.md").read_text()
    documented = dict(re.findall(r"^user (\w+) on >\S+ (.+)$", document, re.MULTILINE))
    assert documented == rules


def test_the_documented_policy_of_s3_is_that_of_the_stack():
    policy = json.loads((ROOT / "tests/golden/prod/policy.json").read_text())
    (documented,) = re.findall(r"```json\n(.+?)```", (ROOT / "docs/external-services.md").read_text(), re.DOTALL)
    # Denying MinIO's administration is MinIO's own affair, and AWS refuses a policy with it.
    assert json.loads(documented)["Statement"] == [statement for statement in policy["Statement"] if statement["Effect"] == "Allow"]
