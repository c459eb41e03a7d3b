# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL, Redis or S3 outside the stack: what a deploy would stage then, and what it refuses."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

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


# Names as services have them, and people who saw them refused or spelled wrong elsewhere.
POSTGRES_USERS = [
    "app-user",
    # https://github.com/zotonic/zotonic/pull/3748, https://github.com/Wei-Shaw/sub2api/pull/3929
    "postgres.abcdefghijklmnopqrst",
    # https://github.com/brianc/node-postgres/issues/2288, https://github.com/sosedoff/pgweb/issues/519
    "App@server-1",
    'o\'brien "the" 2nd:\\é',
    "pg_of_somebody",
    "50%",
]
DATABASES = [
    # https://github.com/vitodeploy/vito/issues/278, https://github.com/groundhog2k/helm-charts/issues/1457
    "campaign-prod",
    # https://github.com/supabase/supavisor/issues/579
    "Kampagne é",
    "a\"b'c\\d",
    "100%/2 @home:$HOME;x=1&y+z,",
]
# https://github.com/redis/node-redis/issues/2734, https://github.com/redis/redis-rb/issues/1100
HOSTS = {"2001:db8::5": "[2001:db8::5]", "[2001:DB8::5]": "[2001:DB8::5]", "db_1.internal": "db_1.internal", "10.0.0.5": "10.0.0.5"}
REGIONS = ["RegionOne", "auto", "eu1", "GRA", "x"]
BUCKETS = ["assets.example.com", "Legacy_Bucket", "tenant:bucket", "b" * 255]
ENDPOINTS = [
    "https://host:9000/minio",
    "https://host/a%20b/~c/",
    "https://[2001:db8::5]:9000",
    "http://rgw_1:7480",
]


def names_of(texts: dict[str, str]) -> dict[str, str]:
    """What Compose reads of the environment file, undone by hand: each value is in double quotes."""
    found = re.findall(r'^(\w+)="((?:\\.|[^"\\])*)"$', texts[".env"], re.MULTILINE)
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in found}


def accepted(variables: dict) -> dict[str, str]:
    """The files of a release with variables that validation has nothing to say about."""
    assert problems_of(GENERATED | {"stack_secrets": KNOWN_OUTSIDE} | variables) == []
    return release_files(build(VARIANTS["prod"] | variables))


@pytest.mark.parametrize("user", POSTGRES_USERS)
def test_the_administrator_of_an_external_postgresql_has_any_name(user):
    texts = accepted({POSTGRES: {"host": "db.example.com"}, "stack_postgres_user": user})
    assert names_of(texts)["POSTGRES_USER"] == user
    url = urlsplit(texts["secrets/api-migrate_database_url"].strip())
    assert (unquote(url.username), url.hostname, url.port) == (user, "db.example.com", 5432)
    assert re.sub(r"\\(.)", r"\1", re.fullmatch(r"[^:]+:5432:\*:((?:\\.|[^:\\])+):.+", texts["secrets/postgres-bootstrap_pgpass"].strip())[1]) == user


@pytest.mark.parametrize("database", DATABASES)
def test_an_external_database_has_any_name(database):
    texts = accepted({POSTGRES: {"host": "db.example.com"}, "stack_postgres_db": database})
    assert names_of(texts)["POSTGRES_DB"] == database
    for login in ("api", "api-migrate", "scheduler"):
        url = urlsplit(texts[f"secrets/{login}_database_url"].strip())
        assert (unquote(url.path), url.query, url.fragment) == (f"/{database}", "sslmode=verify-full", "")
        # The client of Node decodes none of these in a path, so they have to stand there as they are.
        assert not re.search(r"%(24|26|2B|2C|2F|3A|3B|3D|40)", url.path)
    quoted = '"' + database.replace('"', '""') + '"'
    sql = texts["secrets/postgres-bootstrap_bootstrap_sql"]
    assert f"GRANT CONNECT ON DATABASE {quoted} TO " in sql
    assert f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC" in sql


@pytest.mark.parametrize(("host", "in_url"), HOSTS.items(), ids=HOSTS)
def test_an_external_host_is_a_name_or_an_address(host, in_url):
    bare = in_url.strip("[]")
    texts = accepted({POSTGRES: {"host": host}, REDIS: {"host": host}})
    assert texts["secrets/api_database_url"].strip().endswith(f"@{in_url}:5432/campaign_db?sslmode=verify-full")
    assert texts["secrets/api_redis_url"].strip().endswith(f"@{in_url}:6379")
    assert yaml.safe_load(texts["docker-compose.yml"])["services"]["postgres-bootstrap"]["environment"]["PGHOST"] == bare
    assert texts["secrets/postgres-bootstrap_pgpass"].startswith(bare.replace(":", "\\:") + ":5432:*:")
    # The name of an address need not be known, so that is no reason to give up.
    assert ("getent hosts" in texts["postgres-bootstrap.sh"]) == (host == "db_1.internal")


@pytest.mark.parametrize("kind", [POSTGRES, REDIS])
@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "::ffff:127.0.0.1", "fe80::1%eth0", "2001:db8::g", "[2001:db8::5", "[2001:db8::5]:5432", "a:b"])
def test_an_address_that_leads_nowhere_is_refused(kind, host):
    assert any(problem.startswith(f"{kind}: host must be a host name or an address") for problem in problems_of(GENERATED | {kind: {"host": host}}))


def test_what_a_pooler_wants_behind_each_name_is_no_part_of_the_roles():
    external = {"host": "pooler.example.com", "user_suffix": ".abcdef"}
    texts = accepted({POSTGRES: external, "stack_postgres_user": "postgres"})
    for login, user in (("api", "campaign_api_login"), ("api-migrate", "postgres"), ("rules-engine", "campaign_rules_engine_login")):
        assert urlsplit(texts[f"secrets/{login}_database_url"].strip()).username == f"{user}.abcdef"
    assert texts["secrets/postgres-bootstrap_pgpass"].startswith("pooler.example.com:5432:*:postgres.abcdef:")
    assert yaml.safe_load(texts["docker-compose.yml"])["services"]["postgres-bootstrap"]["environment"]["PGUSER"] == "${POSTGRES_USER:?}.abcdef"
    assert "abcdef" not in texts["secrets/postgres-bootstrap_bootstrap_sql"]
    azure = accepted({POSTGRES: {**external, "user_suffix": "@server"}})
    assert "://campaign_api_login%40server:" in azure["secrets/api_database_url"]
    (problem,) = problems_of(GENERATED | {"stack_secrets": KNOWN_OUTSIDE, POSTGRES: external, "stack_postgres_user": "postgres.abcdef"})
    assert problem == f"{POSTGRES}: user_suffix is added to each user's name, so leave it out of stack_postgres_user."


@pytest.mark.parametrize("user", ["default", "health", "App@server", "a:b/c", "rules_engine"])
def test_a_user_of_an_external_redis_has_any_name(user):
    variables = {REDIS: {"host": "cache.example.com"}}
    assert problems_of(GENERATED | {"stack_secrets": KNOWN_OUTSIDE | {"redis_api_user": user}} | variables) == []
    texts = release_files(build(VARIANTS["prod"] | variables | {"stack_secrets": {"redis_api_user": user}}))
    assert unquote(urlsplit(texts["secrets/api_redis_url"].strip()).username) == user


def test_one_user_of_an_external_redis_may_serve_for_all():
    services = {name: {"logins": {"redis": {name: {"user": "default", "password": "redis_api_password"}}}} for name in ("rules-engine", "scheduler")}
    given = {REDIS: {"host": "cache.example.com"}, "stack_services": services}
    secrets = {name: value for name, value in KNOWN_OUTSIDE.items() if not name.startswith("redis_") or "api" in name}
    assert problems_of(GENERATED | given | {"stack_secrets": secrets | {"redis_api_user": "default"}}) == []
    texts = release_files(build(VARIANTS["prod"] | given | {"stack_secrets": {"redis_api_user": "default"}}))
    assert len({texts[f"secrets/{name}_redis_url"] for name in ("api", "rules-engine", "scheduler")}) == 1
    # The stack's own server gives each its own.
    refused = problems_of(GENERATED | {"stack_services": services})
    assert any("logins.redis.rules-engine: the name default belongs to redis itself already" in problem for problem in refused), refused


@pytest.mark.parametrize("user", ["App@server", "{{ 'App@' ~ 'server' }}"])
def test_a_user_of_the_stack_s_own_redis_has_a_name_that_its_file_carries(user):
    services = {"scheduler": {"logins": {"redis": {"scheduler": {"user": user}}}}}
    (problem,) = problems_of(GENERATED | {"stack_services": services})
    assert problem == "stack_services.scheduler.logins.redis.scheduler.user must be a name of letters, digits, _ and - at the stack's own Redis."


@pytest.mark.parametrize("name", ["Mailer-prod", "mailer@server", "mailer.x"])
def test_a_role_has_a_name_that_postgresql_takes_when_it_is_quoted(name):
    services = {
        "scheduler": {
            "logins": {"postgres": {"scheduler": {"user": name, "role": f"{name}-role", "schema": f"{name}-schema", "grants": ["USAGE ON SCHEMA x"]}}}
        }
    }
    assert problems_of(GENERATED | {"stack_services": services}) == []
    texts = release_files(build(VARIANTS["prod"] | {"stack_services": services}))
    sql = texts["secrets/postgres-bootstrap_bootstrap_sql"]
    assert f"SELECT format('CREATE ROLE %I', '{name}') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec" in sql
    assert f'GRANT "{name}-role" TO "{name}";' in sql
    assert f'GRANT USAGE, CREATE ON SCHEMA "{name}-schema" TO "{name}-role";' in sql
    assert f'GRANT USAGE ON SCHEMA x TO "{name}-role";' in texts["secrets/postgres-grants_grants_sql"]
    # Without quotes each would be a syntax error, or a name in lower case.
    assert not re.search(rf"(?<![\"'\w@.-]){re.escape(name)}(?![\"'\w-])", sql)


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("region", REGIONS)
def test_an_external_bucket_and_its_region_have_any_name_that_the_sdk_takes(bucket, region):
    texts = accepted({S3: {"endpoint": "https://s3.example.com"}, "stack_s3_bucket": bucket, "stack_s3_region": region})
    assert {name: names_of(texts)[name] for name in ("S3_BUCKET", "S3_REGION")} == {"S3_BUCKET": bucket, "S3_REGION": region}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_external_endpoint_has_a_path_or_an_address(endpoint):
    texts = accepted({S3: {"endpoint": endpoint}})
    assert names_of(texts)["S3_ENDPOINT"] == endpoint


@pytest.mark.parametrize(
    ("endpoint", "bucket", "in_path"),
    [
        ("https://s3.example.com", "assets", False),
        # https://github.com/aws-lite/aws-lite/issues/87, https://github.com/apache/arrow-rs-object-store/issues/747
        ("https://s3.example.com/x", "assets.example.com", True),
        ("http://s3.example.com", "assets.example.com", False),
        ("http://10.0.0.5:9000", "assets", True),
        ("http://[2001:db8::5]:9000", "assets", True),
    ],
)
def test_a_bucket_stands_in_the_path_where_its_host_name_cannot_be(endpoint, bucket, in_path):
    texts = accepted({S3: {"endpoint": endpoint, "path_style": False}, "stack_s3_bucket": bucket})
    environment = yaml.safe_load(texts["docker-compose.yml"])["services"]["api"]["environment"]
    assert environment.get("S3_PATH_STYLE") == (None if in_path else "false")


OUTSIDE_ONLY = [
    ("stack_postgres_user", "app-user", POSTGRES),
    ("stack_postgres_db", "campaign-prod", POSTGRES),
    ("stack_s3_bucket", "assets.example.com", S3),
    ("stack_s3_region", "RegionOne", S3),
]


@pytest.mark.parametrize(("variable", "name", "kind"), OUTSIDE_ONLY)
def test_what_the_stack_s_own_servers_create_has_a_narrow_rule(variable, name, kind):
    other = {POSTGRES: {"host": "db.example.com"}, S3: {"endpoint": "https://s3.example.com"}}
    del other[kind]
    # Another server outside changes nothing, nor does .env.local.
    assert any(problem.startswith(f"{variable} must be") for problem in problems_of(GENERATED | other | {variable: name}))
    setting = variable.removeprefix("stack_").upper()
    assert any(problem.startswith(f".env.local: {setting} must be") for problem in problems_of(GENERATED | {"stack_env_local": {setting: name}}))
    outside = {kind: {"host": "db.example.com"} if kind == POSTGRES else {"endpoint": "https://s3.example.com"}}
    assert problems_of(GENERATED | {"stack_secrets": KNOWN_OUTSIDE, "stack_env_local": {setting: name}} | outside) == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({POSTGRES: {"host": "db"}, "stack_postgres_user": "two\nlines"}, "stack_postgres_user must be the name of the server's administrator on one line"),
        ({POSTGRES: {"host": "db"}, "stack_postgres_user": "campaign_api_login"}, "stack_postgres_user must be the name of the server's administrator"),
        ({POSTGRES: {"host": "db"}, "stack_postgres_db": "what?"}, "stack_postgres_db must be the database's name on one line"),
        ({POSTGRES: {"host": "db"}, "stack_postgres_db": "no#1"}, "stack_postgres_db must be the database's name on one line"),
        ({POSTGRES: {"host": "db", "user_suffix": "$x"}}, f"{POSTGRES}: user_suffix must be what stands behind"),
        # https://github.com/boto/botocore/issues/2909: the SDK takes no region that cannot be part of a host name.
        ({S3: {"endpoint": "https://s3"}, "stack_s3_region": "xx_myregion"}, "stack_s3_region must be an S3 region such as eu-central-1, RegionOne or auto"),
        ({S3: {"endpoint": "https://s3"}, "stack_s3_bucket": "a/b"}, "stack_s3_bucket must be the bucket's name"),
        ({S3: {"endpoint": "https://s3/?x=1"}}, f"{S3}: endpoint must be"),
        ({S3: {"endpoint": "https://s3/#x"}}, f"{S3}: endpoint must be"),
        ({S3: {"endpoint": "https://[::1]:9000"}}, f"{S3}: endpoint must be"),
        ({S3: {"endpoint": "https://minio:9000/path"}}, f"{S3}: endpoint must be"),
        ({REDIS: {"host": "c"}, "stack_secrets": {"redis_api_user": "two words"}}, "stack_secrets: redis_api_user must be the name of a user of the server"),
    ],
)
def test_what_no_service_allows_is_refused_outside_too(variables, message):
    problems = problems_of(GENERATED | variables)
    assert any(problem.startswith(message) for problem in problems), problems


def test_the_way_out_has_ipv6_where_the_inventory_says_so():
    services = {"api": {"base": {"networks": {"egress-network": {"enable_ipv6": True}}}}}
    texts = accepted({POSTGRES: {"host": "2001:db8::5"}, "stack_services": services})
    assert yaml.safe_load(texts["docker-compose.yml"])["networks"]["egress-network"] == {"enable_ipv6": True}
