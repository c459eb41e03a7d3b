# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy stages: the expected files, reviewed as a diff, and what must hold for every service in them."""

import json
import re
import subprocess
from pathlib import Path

import program
import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import known_secrets
from program import OVERRIDES, SECRET, tables

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
PROD = ["prod", "prod-tls"]
SERVICES = {"postgres", "redis", "minio", "api", "rules-engine", "scheduler", "frontend", "page"}
VOLUMES = {"postgres-data", "redis-data", "minio-data", "page-assets"}
REPLACED = {"command", "entrypoint", "test"}
by_variant = pytest.mark.parametrize("variant", OVERRIDES)


def merge(base, override, key=""):
    """Merge as Docker Compose does: mappings recursively, sequences by appending, but commands and tests as a whole."""
    if isinstance(base, dict) and isinstance(override, dict):
        return {
            name: merge(base[name], override[name], name) if name in base and name in override else {**base, **override}[name] for name in {**base, **override}
        }
    if isinstance(base, list) and isinstance(override, list) and key not in REPLACED:
        return base + [entry for entry in override if entry not in base]
    return override


@pytest.fixture(scope="module")
def composed(golden):
    def compose(variant: str) -> dict:
        base, override = (yaml.safe_load(golden[variant][name]) for name in ("docker-compose.yml", OVERRIDES[variant]))
        return merge(base, override)

    return {variant: compose(variant) for variant in OVERRIDES}


def long_running(compose: dict) -> dict:
    return {name: service for name, service in compose["services"].items() if "profiles" not in service}


@by_variant
def test_the_expected_files_are_rendered(golden, variant):
    directory = GOLDEN / variant
    expected = {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}
    assert dict(sorted(golden[variant].items())) == dict(sorted(expected.items())), "If the change is wanted, run `make golden` and review its diff."


@by_variant
def test_every_part_of_the_platform_is_there(composed, variant):
    compose = composed[variant]
    assert set(long_running(compose)) >= SERVICES
    assert set(compose["volumes"]) == VOLUMES
    assert compose["networks"]["backend-network"] == {"internal": True}
    assert "frontend-network" in compose["networks"]


@by_variant
def test_every_service_is_confined(composed, variant):
    for name, service in composed[variant]["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["read_only"] is True, name
        if name != "minio-volume":
            assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), f"{name}: a fixed uid and gid that is not root's"
            assert not {"cap_add", "network_mode"} & set(service), name
        assert service["pids_limit"] > 0, name
        assert service["logging"]["options"]["max-size"], name
        assert not {"privileged", "pid", "ipc", "devices"} & set(service), name


@by_variant
def test_every_service_tells_whether_it_is_healthy(composed, variant):
    for name, service in long_running(composed[variant]).items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        # Not before Engine 25, and the floor is 20.10.
        assert "start_interval" not in service["healthcheck"], name
    for name, service in composed[variant]["services"].items():
        if "profiles" in service:
            assert service["restart"] == "no", f"{name}: a job runs once"


@by_variant
def test_no_secret_stands_in_a_file_that_is_not_a_secret(golden, variant):
    assert [name for name, text in golden[variant].items() if SECRET in text and not name.startswith("secrets/")] == []
    # The texts would show one: every secret file but those of Redis's users, which hold digests and names, has one in it.
    assert [name for name, text in golden[variant].items() if name.startswith("secrets/") and SECRET not in text] == [
        "secrets/api_jwt_secret_previous",
        "secrets/redis_redis_acl",
        "secrets/redis-bootstrap_admin_password",
        "secrets/redis-bootstrap_users_prepare",
        "secrets/redis-retire_admin_password",
        "secrets/redis-retire_users_finish",
        "secrets/redis-retire_users_known",
    ]


@by_variant
def test_every_secret_has_one_consumer(composed, variant):
    compose = composed[variant]
    used = [secret["source"] for service in compose["services"].values() for secret in service.get("secrets", [])]
    assert sorted(used) == sorted(compose["secrets"])
    for name, secret in compose["secrets"].items():
        # A name without a generation stands for one, so that a changed value does not recreate its consumer.
        place = "secrets" if re.search("_[0-9a-f]{12}$", name) else "secrets/stable"
        assert secret == {"file": f"/opt/campaign/{place}/{name}"}
    assert {name for name in compose["secrets"] if not re.search("_[0-9a-f]{12}$", name)} == {"postgres_postgres_password", "redis_redis_acl"}
    for name, service in compose["services"].items():
        hidden = re.compile(r"(PASSWORD|SECRET|TOKEN|_KEY|_URL)$")
        given = {key: value for key, value in service.get("environment", {}).items() if hidden.search(key) and not key.startswith("VITE_")}
        assert given == {}, f"{name}: a secret belongs in a file"


@by_variant
def test_images_are_named_exactly(composed, variant):
    for name, service in composed[variant]["services"].items():
        assert re.search(r"(:(?!latest$)[\w.-]+|@sha256:\w{64})$", service["image"]), name
        assert "build" not in service, f"{name}: images are built before a deploy, not by it"


def test_local_publishes_on_loopback_only(composed):
    ports = {name: service["ports"] for name, service in composed["local"]["services"].items() if "ports" in service}
    assert set(ports) == {"frontend", "minio", "postgres", "redis"}
    # The api's port too is held by what a new api does not recreate.
    assert [port.rpartition("{")[2] for port in ports["frontend"]] == ["FRONTEND_PORT:?}:8080", "API_PORT:?}:3000"]
    for name, published in ports.items():
        # Where the page may be published elsewhere, the data is not.
        address = r"\$\{BIND_ADDRESS:\?\}" if name == "frontend" else r"127\.0\.0\.1"
        assert all(re.fullmatch(address + r":\$\{[A-Z_]+_PORT:\?\}:\d+", port) for port in published), name
    assert 'BIND_ADDRESS="127.0.0.1"' in (GOLDEN / "local/.env").read_text().splitlines()


@pytest.mark.parametrize(("variant", "inner"), [("prod", ["8080"]), ("prod-tls", ["8080", "8443"])])
def test_prod_publishes_the_frontend_only(composed, variant, inner):
    published = {name: service["ports"] for name, service in composed[variant]["services"].items() if "ports" in service}
    assert {name: [port.rpartition(":")[2] for port in ports] for name, ports in published.items()} == {"frontend": inner}
    assert set(composed[variant]["networks"]) == {"backend-network", "frontend-network"}


@pytest.mark.parametrize("variant", PROD)
def test_prod_limits_what_a_service_or_a_job_may_use(composed, variant):
    for name, service in composed[variant]["services"].items():
        resources = service["deploy"]["resources"]
        assert float(resources["limits"]["cpus"]) > 0, name
        assert service["memswap_limit"] == resources["limits"]["memory"], f"{name}: it could swap"
        assert resources["reservations"]["memory"], name
        assert service["cpu_shares"] > 0, name
        # Compose 2.26 refuses two different values, and takes a missing one for 0.
        assert resources["limits"]["pids"] == service["pids_limit"], name


@by_variant
def test_temporary_files_are_bounded_and_cannot_be_executed(composed, variant):
    for name, service in composed[variant]["services"].items():
        assert any(entry.startswith("/tmp:") for entry in service["tmpfs"]), name
        for entry in service["tmpfs"]:
            assert {"noexec", "nosuid", "nodev"} <= set(entry.partition(":")[2].split(",")), f"{name}: {entry}"
            assert re.search(r"[:,]size=\d+[km]?\b", entry), f"{name}: {entry}"
        assert service["ulimits"] == {"core": 0}, name


def test_with_tls_the_key_is_the_frontend_s_secret_and_the_certificate_is_not(composed, golden):
    frontend = composed["prod-tls"]["services"]["frontend"]
    assert [secret["target"] for secret in frontend["secrets"]] == ["tls_private_key"]
    assert "/etc/nginx/tls/certificate.pem" in [volume["target"] for volume in frontend["volumes"]]
    assert "secrets" not in composed["prod"]["services"]["frontend"]
    assert "ssl" not in golden["prod"]["default.conf"]


@by_variant
def test_no_part_of_the_frontend_s_site_drops_the_security_headers(golden, variant):
    # nginx hands add_header down only to where there is none, so all of them stand at the top.
    text = re.sub(r"^\s*#.*\n", "", golden[variant]["default.conf"], flags=re.MULTILINE)
    assert re.findall(r"^(\s*)add_header", text, re.MULTILINE) == [""] * (8 if variant == "local" else 9)
    assert re.findall(r"^(\s*)server_tokens off;", text, re.MULTILINE) == [""]


def addresses_believed(site: str) -> list[str]:
    """Return the networks whose X-Forwarded-For nginx believes, having seen that it hands on nobody else's."""
    assert re.findall(r"proxy_set_header X-Forwarded-For (.*);", site) == ["$remote_addr"]
    assert re.findall(r"limit_req_zone (\S+) ", site) == ["$binary_remote_addr"]
    return re.findall(r"^set_real_ip_from (.*);", site, re.MULTILINE)


@by_variant
def test_an_address_is_what_nginx_sees_unless_proxies_are_named(golden, variant):
    assert addresses_believed(golden[variant]["default.conf"]) == []
    assert "real_ip" not in golden[variant]["default.conf"]
    assert re.findall(r"X-Forwarded-Proto (.*);", golden[variant]["default.conf"]) == ["$scheme"]


def test_named_proxies_and_no_others_are_believed():
    networks = ["192.0.2.0/24", "198.51.100.7/32"]
    site = program.golden("prod", stack_trusted_proxies=networks)["default.conf"]
    assert addresses_believed(site) == networks
    assert "real_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n" in site
    # By the address of who asks nginx, and not by the one that it claims to speak for.
    trusted = re.search(r"geo \$realip_remote_addr \$is_from_proxy \{(.*?)\}", site, re.DOTALL)[1]
    assert re.findall(r"(\S+) 1;", trusted) == networks
    assert 'map "$is_from_proxy $http_x_forwarded_proto" $client_scheme {\n    default $scheme;\n' in site
    assert re.findall(r"X-Forwarded-Proto (.*);", site) == ["$client_scheme"]


@by_variant
def test_the_compose_linter_finds_nothing(composed, golden, variant, tmp_path):
    # It is shown what runs: the files as Compose merges them, beside the values that Compose fills in.
    settings = golden[variant][".env"].splitlines()
    (tmp_path / ".env").write_text("\n".join(line for line in settings if not line.startswith("COMPOSE_")))
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(composed[variant]))
    # A laptop's services share what the laptop has, so only prod's are measured against the rules about limits, which are of medium severity.
    threshold = "high" if variant == "local" else "medium"
    done = subprocess.run(
        ["compose-lint", "check", "--quiet", "--strict-config", "--config", ROOT / ".compose-lint.yml", "--fail-on", threshold, "compose.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", PROD)
def test_prod_mounts_no_sources(golden, variant):
    assert "/srv/campaign/app" not in "".join(golden[variant].values())


def test_hot_reload_mounts_what_a_service_is_made_of(composed):
    sources = {
        name: {volume.split(":")[0].removeprefix("/srv/campaign/app/packages/") for volume in service.get("volumes", []) if "/srv/campaign/app" in volume}
        for name, service in composed["local"]["services"].items()
    }
    assert {name: mounted for name, mounted in sources.items() if mounted} == {
        "api": {"shared/src", "api/src"},
        "api-migrate": {"shared/src", "api/src"},
        "rules-engine": {"shared/src", "rules-engine/src"},
        "scheduler": {"shared/src", "scheduler/src"},
        "page": {"shared/src", "frontend/src", "frontend/public"},
    }


@by_variant
def test_the_logins_of_services_can_do_no_more_than_they_need(golden, variant):
    texts = golden[variant]
    sql, acl = texts["secrets/postgres-bootstrap_bootstrap_sql"], texts["secrets/redis_redis_acl"].splitlines()
    created = set(re.findall(r"'CREATE ROLE %I', '(\w+)'", sql))
    assert created == {"campaign_api_login", "campaign_rules_engine_login", "campaign_scheduler_login"}
    for login in created:
        assert f'ALTER ROLE "{login}" WITH NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;' in sql
    assert not re.search(r"(?<!NO)(SUPERUSER|CREATEDB|CREATEROLE|REPLICATION|BYPASSRLS)\b", sql)
    assert "REVOKE ALL ON DATABASE" in sql
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in sql
    assert acl[0].split()[:4] == ["user", "default", "off", "resetpass"]
    assert acl[1] == "user health on nopass -@all +ping"
    # Root's own, for the jobs.
    assert re.fullmatch(r"user bootstrap on #[0-9a-f]{64} resetchannels -@all \+acl\|setuser \+acl\|deluser \+acl\|users", acl[2])
    for line in acl[3:]:
        assert re.match(r"user \w+ on #[0-9a-f]{64} resetchannels -@all ", line), line
        assert not re.search(r"\+@|allcommands|allkeys|allchannels|nopass|~\*|&\*|\+(acl|config|flush|keys|debug|module|shutdown)\b", line), line
    statements = json.loads(texts["policy-api.json"])["Statement"]
    assert [statement["Action"] for statement in statements if statement["Effect"] == "Allow"] == [
        ["s3:ListBucket"],
        ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
    ]
    assert {action for statement in statements if statement["Effect"] == "Deny" for action in statement["Action"]} == {"admin:*"}


@by_variant
def test_who_signs_in_waits_for_who_lets_it_in(composed, variant):
    waits = {
        name: {other: condition["condition"].removeprefix("service_") for other, condition in service.get("depends_on", {}).items()}
        for name, service in composed[variant]["services"].items()
    }
    servers = {"postgres": "healthy", "redis": "healthy"}
    assert waits == {
        "api": {**servers, "minio": "healthy"},
        "api-migrate": {"postgres-bootstrap": "completed_successfully"},
        # It asks again for the api's address, so it runs without one.
        "frontend": {},
        "minio": {},
        "page": {},
        "minio-bootstrap": {"minio": "started"},
        "minio-retire": {},
        "minio-volume": {},
        "postgres": {},
        "postgres-bootstrap": {"postgres": "started"},
        "redis": {},
        "redis-bootstrap": {"redis": "started"},
        "redis-retire": {},
        "rules-engine": servers,
        "scheduler": servers,
    }


@by_variant
def test_the_manifest_says_what_the_release_is(golden, composed, variant):
    manifest, services = json.loads(golden[variant]["manifest.json"]), composed[variant]["services"]
    assert set(manifest["services"]) == set(long_running(composed[variant]))
    assert set(manifest["jobs"] + manifest["first_jobs"] + manifest["last_jobs"]) == set(services) - set(manifest["services"])
    assert manifest["first_jobs"] == ["minio-volume"]
    assert manifest["restoring_jobs"] == ["minio-bootstrap", "postgres-bootstrap", "redis-bootstrap"]
    assert manifest["last_jobs"] == ["minio-retire", "redis-retire"]
    # Those that others wait for.
    assert set(manifest["foundations"]) == {"postgres", "redis", "minio"}
    assert manifest["images"] == {name: services[name]["image"] for name in manifest["services"]}
    assert manifest["layer"] == ("dev" if variant == "local" else "prod")
    # What gives a volume to its user is root, and can do nothing else.
    assert manifest["loosened"] == {"minio-volume": ["cap_add", "network_mode", "user"]}
    owner = services["minio-volume"]
    assert (owner["cap_add"], owner["network_mode"], owner["read_only"]) == (["CHOWN"], "none", True)
    assert (owner["entrypoint"], owner["volumes"]) == (["chown", services["minio"]["user"], "/data"], services["minio"]["volumes"])
    assert manifest["project"] == "campaign"
    path = f"/opt/campaign/releases/{manifest['release']}"
    assert manifest["compose_files"] == [f"{path}/docker-compose.yml", f"{path}/{OVERRIDES[variant]}"]
    assert manifest["env_file"] == f"{path}/.env"
    assert f'COMPOSE_FILE="{":".join(manifest["compose_files"])}"' in golden[variant][".env"].splitlines()
    settings = [line.partition("=")[0] for line in golden[variant][".env"].splitlines()]
    assert settings == ["COMPOSE_PROJECT_NAME", "COMPOSE_FILE", *manifest["settings"]]
    sources = {f"secrets/{secret['source']}" for service in services.values() for secret in service.get("secrets", [])}
    stable = {path.replace("/stable/", "/"): target for path, target in manifest["stable"].items()}
    assert {stable.get(source, source) for source in sources} == set(manifest["secrets"])
    mounts = {
        volume["source"].removeprefix("/opt/campaign/") for service in services.values() for volume in service.get("volumes", []) if isinstance(volume, dict)
    }
    earlier = {f"secrets/earlier/{row['job']}/{row['target']}" for row in manifest["earlier"]}
    assert {*manifest["configs"], *earlier, "routes/frontend"} == mounts
    assert manifest["start_first"] == ["api", "page", "rules-engine", "scheduler"]
    assert manifest["routes"] == {"frontend": {"api": 3000, "page": 8080}}


def names_in(path: Path, also_commented: bool = False) -> set[str]:
    return set(re.findall(rf"^{'#? ?' if also_commented else ''}([A-Z][A-Z0-9_]*)=", path.read_text(), re.MULTILINE))


def test_the_example_of_the_environment_is_complete(golden):
    assert names_in(ROOT / ".env.example") == set(re.findall(r"^([A-Z0-9_]+)=", golden["local"][".env"], re.MULTILINE))


def test_the_example_of_the_local_environment_is_complete():
    data = tables()
    settings = {name for entry in data.services.values() for name in entry.get("settings") or {}} | set(data.settings)
    secrets = set(known_secrets(data, data.services).env_local)
    assert names_in(ROOT / ".env.local.example", also_commented=True) == settings | secrets | set(data.urls)
