# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL, Redis or S3 outside the stack: what a deploy would stage then, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import all_logins
from program import OVERRIDES, VARIANTS, build, problems_of, release_files, secret_names, summary, tables

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


def variables_of(combination: tuple[str, ...]) -> dict:
    return {name: value for part in combination for name, value in EXTERNAL[part].items()}


@pytest.fixture(scope="module", params=COMBINATIONS, ids="+".join)
def rendered(request) -> tuple[tuple[str, ...], dict[str, dict[str, str]]]:
    return request.param, {variant: release_files(build(VARIANTS[variant] | variables_of(request.param))) for variant in ("local", "prod")}


def composed(files: dict[str, dict[str, str]], variant: str) -> tuple[dict, dict]:
    return yaml.safe_load(files[variant]["docker-compose.yml"]), yaml.safe_load(files[variant][OVERRIDES[variant]])


@pytest.mark.parametrize("variant", ["local", "prod"])
def test_the_bundled_service_leaves_no_trace(rendered, variant):
    combination, files = rendered
    for name, text in files[variant].items():
        for part in combination:
            assert not TRACES[part].search(text), f"{name}: {TRACES[part].search(text)}"
    base, override = composed(files, variant)
    for part, service in BUNDLED.items():
        there = part not in combination
        assert (service in base["services"]) == there
        assert (f"{service}-data" in base["volumes"] if base.get("volumes") else False) == there
        assert there or service not in override["services"]


@pytest.mark.parametrize("variant", ["local", "prod"])
def test_consumers_wait_for_what_is_there_and_reach_what_is_not(rendered, variant):
    combination, files = rendered
    base, _override = composed(files, variant)
    outside = {consumer for part in combination for consumer in CONSUMERS[part]}
    assert base["networks"]["backend-network"] == {"internal": True}
    assert base["networks"]["egress-network"] == {}
    for name, service in base["services"].items():
        assert ("egress-network" in service.get("networks", [])) == (name in outside), name
        assert len(service.get("networks", [])) == len(set(service.get("networks", []))), name
        assert set(service.get("depends_on", {})) <= set(base["services"]), name
        for part in combination:
            assert BUNDLED[part] not in service.get("depends_on", {}), name


def test_the_ca_reaches_those_who_verify_with_it(rendered):
    combination, files = rendered
    base, _override = composed(files, "prod")
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
        assert 'S3_ENDPOINT="https://s3.example.com"' in files["prod"][".env"].splitlines()
        assert base["services"]["api"]["environment"]["S3_PATH_STYLE"] == "false"


@pytest.mark.parametrize(
    ("kind", "given", "login", "url"),
    [
        ("postgres", {"host": "db.example.com"}, "database_url", "db.example.com:5432/campaign_db?sslmode=verify-full"),
        ("postgres", {"host": "db", "port": "6432", "tls": "require"}, "database_url", "db:6432/campaign_db?uselibpqcompat=true&sslmode=require"),
        ("postgres", {"host": "db", "tls": "disable"}, "database_url", "db:5432/campaign_db"),
        ("redis", {"host": "cache.example.com"}, "redis_url", "cache.example.com:6379"),
        ("redis", {"host": "cache", "port": 7000, "tls": False}, "redis_url", "cache:7000"),
    ],
)
def test_an_external_server_is_in_the_url(kind, given, login, url):
    texts = release_files(build({**VARIANTS["prod"], f"stack_{kind}_external": given}))
    scheme = "postgres" if kind == "postgres" else "redis" if given.get("tls") is False else "rediss"
    for service in ("api", "scheduler"):
        text = texts[f"secrets/{service}_{login}"].strip()
        assert text.startswith(f"{scheme}://")
        assert text.rpartition("@")[2] == url


def test_the_bootstrap_signs_in_to_an_external_postgres_with_its_own_client():
    given = {"host": "db.example.com", "port": 6432, "ca": CA}
    compose = yaml.safe_load(release_files(build(VARIANTS["prod"] | {POSTGRES: given}))["docker-compose.yml"])
    job = compose["services"]["postgres-bootstrap"]
    assert job["environment"] == {
        "PGHOST": "db.example.com",
        "PGUSER": "${POSTGRES_USER:?}",
        "PGDATABASE": "${POSTGRES_DB:?}",
        "PGPASSFILE": "/run/secrets/pgpass",
        "PGPORT": "6432",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/etc/campaign/postgres-ca.pem",
    }
    texts = release_files(build(VARIANTS["prod"] | {POSTGRES: {"host": "db.example.com", "port": 6432}}))
    job = yaml.safe_load(texts["docker-compose.yml"])["services"]["postgres-bootstrap"]
    assert job["environment"]["PGSSLROOTCERT"] == "system"
    assert texts["secrets/postgres-bootstrap_pgpass"].startswith("db.example.com:6432:*:campaign_user:")


def test_images_ports_and_checks_of_the_bundled_service_are_gone():
    given = {"stack_secrets": {name: f"{name}-of-this-test" for name in secret_names()}}
    bundled, outside = summary(given), summary(given | variables_of(tuple(EXTERNAL)))
    # The client of the bootstrap comes with the image of PostgreSQL.
    assert set(bundled["images"]) - set(outside["images"]) == {"redis", "minio"}
    assert "postgis" in outside["images"]
    assert {entry["port"] for entry in bundled["ports"]} - {entry["port"] for entry in outside["ports"]} == {5432, 6379, 9000, 9001}
    before, after = (build(VARIANTS["local"] | more)["manifest"]["checks"] for more in ({}, variables_of(tuple(EXTERNAL))))
    assert {check["service"] for check in before} - {check["service"] for check in after} == {"postgres", "redis", "minio"}
    gone = {check["name"] for check in before if check["service"] == "api"} - {check["name"] for check in after if check["service"] == "api"}
    assert gone == {"MinIO's default credentials are refused"}


POSTGRES, REDIS, S3 = "stack_postgres_external", "stack_redis_external", "stack_s3_external"
WRONG = [
    ({POSTGRES: {}}, f"{POSTGRES}.host is missing. It must be text."),
    ({POSTGRES: {"host": ""}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "postgres"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "Minio"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "localhost"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "127.0.0.1"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "db.example.com:5432"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "me:canary@db.example.com"}}, f"{POSTGRES}: host must be"),
    ({POSTGRES: {"host": "db.example.com", "port": 0}}, f"{POSTGRES}: port must be"),
    ({POSTGRES: {"host": "db.example.com", "port": "pg"}}, f"{POSTGRES}.port must be a whole number"),
    ({POSTGRES: {"host": "db.example.com", "tls": True}}, f"{POSTGRES}.tls must be text"),
    ({POSTGRES: {"host": "db.example.com", "tls": "prefer"}}, f"{POSTGRES}.tls must be one of verify-full, require, disable"),
    ({POSTGRES: {"host": "db.example.com", "ca": "canary"}}, f"{POSTGRES}: ca must be"),
    ({POSTGRES: {"host": "db.example.com", "ca": CA + KEY}}, f"{POSTGRES}: ca must be"),
    ({POSTGRES: {"host": "db.example.com", "ca": CA, "tls": "require"}}, f"{POSTGRES}: ca has an effect"),
    ({POSTGRES: {"host": "db.example.com", "sslmode": "require"}}, f"{POSTGRES}.sslmode is not known"),
    ({POSTGRES: {"host": "db.example.com", "password": "canary-canary"}}, f"{POSTGRES}.password is not known"),
    ({POSTGRES: {"host": "db.example.com"}}, "stack_secrets.postgres_password is missing"),
    ({REDIS: {}}, f"{REDIS}.host is missing. It must be text."),
    ({REDIS: {"host": "redis"}}, f"{REDIS}: host must be"),
    ({REDIS: {"host": "cache.example.com", "port": 65536}}, f"{REDIS}: port must be"),
    ({REDIS: {"host": "cache.example.com", "tls": "canary"}}, f"{REDIS}.tls must be true or false"),
    ({REDIS: {"host": "cache.example.com", "tls": False, "ca": CA}}, f"{REDIS}: ca has an effect"),
    ({REDIS: {"host": "cache.example.com"}}, "stack_secrets.redis_scheduler_password is missing"),
    ({S3: {}}, f"{S3}.endpoint is missing. It must be text."),
    ({S3: {"endpoint": "s3.example.com"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "http://minio:9000"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "http://127.0.0.1:9000"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "https://s3.example.com/bucket"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "https://key:canary@s3.example.com"}}, f"{S3}: endpoint must be"),
    ({S3: {"endpoint": "https://s3.example.com", "path_style": "canary"}}, f"{S3}.path_style must be true or false"),
    ({S3: {"endpoint": "http://s3.example.com", "ca": CA}}, f"{S3}: ca has an effect"),
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


GENERATED = {"stack_generate_secrets": True, "stack_generated_secrets_file": "/nowhere/generated.json"}


@pytest.mark.parametrize(("variables", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else None)
def test_what_is_wrong_is_named_without_its_value(variables, message):
    # What the server outside knows already is given, but for the cases that are about just that.
    given = {"stack_secrets": KNOWN_OUTSIDE} if "has an effect" in message else {}
    problems = problems_of(GENERATED | given | variables)
    assert any(problem.startswith(message) for problem in problems), problems
    assert "canary" not in "".join(problems)


# What an external server knows already.
KNOWN_OUTSIDE = {
    name: f"{name} of somebody else" if name != "s3_access_key" else "key"
    for name in ("postgres_password", "redis_api_password", "redis_rules_engine_password", "redis_scheduler_password", "s3_access_key", "s3_secret_key")
}


@pytest.mark.parametrize(
    "variables",
    [
        variables_of(tuple(EXTERNAL)),
        {POSTGRES: {"host": "10.0.0.5", "port": "6432", "tls": "require"}},
        {POSTGRES: {"host": "postgres.example.com", "tls": "disable"}},
        {REDIS: {"host": "redis-1", "tls": False}},
        {REDIS: {"host": "redis-1", "tls": "false"}},
        {REDIS: {"host": "cache", "ca": CA}},
        {S3: {"endpoint": "http://10.0.0.5:9000/"}},
    ],
    ids=repr,
)
def test_what_is_right_is_accepted(variables):
    assert problems_of(GENERATED | {"stack_secrets": KNOWN_OUTSIDE} | variables) == []


def test_without_generation_only_what_is_needed_is_asked_for():
    # PostgreSQL's logins are created outside too; MinIO's root and the server's own password are nobody's then.
    needed = {name: f"{name}-of-this-test" for name in secret_names() if not name.startswith("minio_root")}
    assert problems_of({"stack_secrets": needed} | variables_of(tuple(EXTERNAL))) == []
    for name in needed:
        left = {key: value for key, value in needed.items() if key != name}
        (problem,) = problems_of({"stack_secrets": left} | variables_of(tuple(EXTERNAL)))
        assert problem.startswith(f"stack_secrets.{name} is missing.")


def test_the_documented_rules_of_redis_are_those_of_the_stack():
    rules = {str(one.name).replace("-", "_"): one.row["acl"] for one in all_logins(tables().services) if one.server == "redis"}
    document = (ROOT / "docs/external-services.md").read_text()
    documented = dict(re.findall(r"^user (\w+) on >\S+ (.+)$", document, re.MULTILINE))
    assert documented == rules


def test_the_documented_policy_of_s3_is_that_of_the_stack():
    policy = json.loads((ROOT / "tests/golden/prod/policy-api.json").read_text())
    (documented,) = re.findall(r"```json\n(.+?)```", (ROOT / "docs/external-services.md").read_text(), re.DOTALL)
    # Denying MinIO's administration is MinIO's own affair, and AWS refuses a policy with it.
    assert json.loads(documented)["Statement"] == [statement for statement in policy["Statement"] if statement["Effect"] == "Allow"]
