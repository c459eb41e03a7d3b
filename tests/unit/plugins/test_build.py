# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release is made of when an inventory brings entries of its own."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils import declaration, release
from ansible_collections.campaign.platform.plugins.plugin_utils.catalogue import merge
from ansible_collections.campaign.platform.plugins.plugin_utils.release import BACKEND, config_files, generation, ordered, secret_files
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import TextError
from program import IMAGES, SECRET, build, declare, problems_of, release_files, secret_names, secret_texts, summary, tables, trusted

POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::{{ setting.S3_BUCKET }}/mail/*"]}]}
MAILER = {
    "images": {"mailer": {"context": "/srv/mailer", "parents": {"NODE_IMAGE": "node"}}},
    "needs": {"mailer": {"postgres": "mailer", "redis": "mailer", "s3": "mailer"}, "mailer-migrate": {"postgres": "mailer"}},
    "logins": {
        "postgres": {"mailer": {"schema": "mailer", "grants": ["SELECT ON TABLE campaigns"]}},
        "redis": {"mailer": {"acl": "resetchannels -@all +ping ~mailer:* +get"}},
        "s3": {"mailer": {"policy": POLICY}},
    },
    "settings": {
        "MAILER_FROM": {"pattern": "[^@ ]+@[^@ ]+", "hint": "an e-mail address", "default": "campaign@example.com"},
        "MAILER_PORT": {"minimum": 1, "maximum": 65535, "hint": "a TCP port, 1 to 65535", "default": 28025},
    },
    "secrets": {"mailer": ["mailer_token"]},
    "configs": {"mailer": {"/etc/mailer/mailer.json": {"content": '{"from": "{{ setting.MAILER_FROM }}"}'}}},
    "jobs": {"mailer-migrate": {}},
    "base": {
        "services": {
            "mailer": {
                "image": "{{ image.mailer }}",
                "user": "10005:10005",
                "healthcheck": {"test": "{{ node_get + ['http://127.0.0.1:8025/'] }}", "retries": 9},
            },
            "mailer-migrate": {"image": "{{ image.mailer }}", "user": "10005:10005", "command": ["migrate"]},
        },
        "volumes": {"mailer-data": {}},
    },
    "dev": {"services": {"mailer": {"networks": ["published-network"], "ports": ["127.0.0.1:${MAILER_PORT:?}:8025"]}}, "networks": {"published-network": {}}},
    "checks": {
        "health": {"kind": "http", "port": 8025, "path": "/health"},
        "published": {"kind": "tcp", "address": "127.0.0.1", "port": "{{ setting.MAILER_PORT }}", "when": "{{ variant == 'local' }}"},
    },
    "metrics": {
        "queue": {"command": ["node", "queue.mjs", "{{ setting.MAILER_FROM }}"], "limit": 1000},
        "sandbox": {"command": ["cat", "/run/sandbox"], "expect": 1, "when": "{{ variant == 'local' }}"},
    },
}
LOCAL, PROD = {"stack_variant": "local"}, {"stack_variant": "prod"}
WITH_MAILER = {"stack_services": {"mailer": MAILER}}
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def released(given: Mapping, *images: str):
    """Return the base, the override, and all texts of a release."""
    texts = release_files(build(given, images))
    override = next(text for name, text in texts.items() if re.fullmatch(r"docker-compose\.\w+\.yml", name))
    base, override = yaml.safe_load(texts["docker-compose.yml"]), yaml.safe_load(override)
    return base, override, texts


@pytest.fixture(scope="module", params=["local", "prod"])
def mailer(request):
    return request.param, *released({"stack_variant": request.param, **WITH_MAILER}, "mailer")


def test_a_service_has_what_its_entry_says(mailer):
    variant, base, override, texts = mailer
    service = base["services"]["mailer"]
    assert service["image"] == "campaign/mailer:golden"
    assert service["user"] == "10005:10005"
    assert service["healthcheck"]["test"][:3] == ["CMD", "node", "-e"]
    assert base["volumes"]["mailer-data"] == {}
    env = texts[".env"].splitlines()
    assert 'MAILER_FROM="campaign@example.com"' in env
    assert 'MAILER_PORT="28025"' in env
    assert texts["mailer.json"] == '{"from": "campaign@example.com"}'
    (mount,) = service["volumes"]
    assert (mount["target"], mount["read_only"], mount["bind"]) == ("/etc/mailer/mailer.json", True, {"create_host_path": False})
    if variant == "local":
        assert override["services"]["mailer"] == {"ports": ["127.0.0.1:${MAILER_PORT:?}:8025"], "networks": ["published-network"]}


def test_a_service_has_what_all_have_without_saying_so(mailer):
    variant, base, override, _texts = mailer
    for name in ("mailer", "mailer-migrate"):
        service, other = base["services"][name], base["services"]["scheduler"]
        for key in ("init", "read_only", "tmpfs", "cap_drop", "security_opt", "stop_grace_period", "pids_limit", "ulimits", "logging"):
            assert service[key] == other[key], key
        assert service["networks"] == [BACKEND]
        assert service["restart"] == ("no" if name == "mailer-migrate" else "unless-stopped")
    assert base["services"]["mailer"]["healthcheck"] | {"test": []} == {"interval": "5s", "timeout": "5s", "retries": 9, "start_period": "60s", "test": []}
    if variant == "prod":
        for name in ("mailer", "mailer-migrate"):
            assert override["services"][name] == {
                "cpu_shares": 512,
                "memswap_limit": "384m",
                "deploy": {"resources": {"limits": {"cpus": "0.5", "memory": "384m", "pids": 512}, "reservations": {"memory": "64m"}}},
            }
    else:
        assert "mailer-migrate" not in override["services"]


def test_a_job_is_not_part_of_up_and_waits_for_its_login(mailer):
    _variant, base, _override, texts = mailer
    services, manifest = base["services"], json.loads(texts["manifest.json"])
    assert services["mailer-migrate"]["profiles"] == ["job"]
    assert services["mailer-migrate"]["depends_on"] == {"postgres-bootstrap": {"condition": "service_completed_successfully"}}
    assert set(manifest["jobs"]) == {"api-migrate", "mailer-migrate", "minio-bootstrap", "postgres-bootstrap", "postgres-grants", "redis-bootstrap"}
    # Migrations go forward only; what gives logins back is run again by a deploy that failed.
    assert manifest["restoring_jobs"] == ["minio-bootstrap", "postgres-bootstrap", "postgres-grants", "redis-bootstrap"]
    assert manifest["last_jobs"] == ["minio-retire", "redis-retire"]
    assert "mailer" in manifest["services"]
    assert "mailer-migrate" not in manifest["services"]
    assert set(services["postgres-grants"]["depends_on"]) == set(manifest["jobs"]) - {"postgres-grants"}


def test_a_job_that_comes_first_is_run_by_itself_and_waited_for_by_nobody():
    entry = {"jobs": {"mailer-volume": {"first": True}}, "base": {"services": {name: {"image": "x:1", "user": "1:1"} for name in ("mailer", "mailer-volume")}}}
    base, _override, texts = released({**LOCAL, "stack_services": {"mailer": entry}}, "mailer", "mailer-volume")
    manifest = json.loads(texts["manifest.json"])
    assert manifest["first_jobs"] == ["mailer-volume", "minio-volume"]
    assert not set(manifest["first_jobs"]) & {*manifest["jobs"], *manifest["services"], *manifest["restoring_jobs"]}
    assert base["services"]["mailer-volume"]["profiles"] == ["job"]
    assert [name for name, body in base["services"].items() if "mailer-volume" in body.get("depends_on", {})] == []


def test_what_signs_in_waits_and_has_its_credentials_in_files(mailer):
    _variant, base, _override, texts = mailer
    service = base["services"]["mailer"]
    assert service["depends_on"] == {name: {"condition": "service_healthy"} for name in ("postgres", "redis", "minio")}
    files = {secret["target"]: texts[f"secrets/mailer_{secret['target']}"].strip() for secret in service["secrets"]}
    assert files == {
        "database_url": f"postgres://campaign_mailer_login:postgres_mailer_password{SECRET}@postgres:5432/campaign_db",
        "redis_url": f"redis://mailer:redis_mailer_password{SECRET}@redis:6379",
        "s3_access_key": f"s3_mailer_access_key{SECRET}",
        "s3_secret_key": f"s3_mailer_secret_key{SECRET}",
        "mailer_token": f"mailer_token{SECRET}".rjust(32, "-"),
    }


def test_the_servers_know_the_login_and_what_it_may(mailer):
    _variant, base, _override, texts = mailer
    sql, grants, acl = (texts[f"secrets/{name}"] for name in ("postgres-bootstrap_bootstrap_sql", "postgres-grants_grants_sql", "redis_redis_acl"))
    assert 'ALTER ROLE "campaign_mailer_login" WITH NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;' in sql
    assert 'GRANT "campaign_mailer" TO "campaign_mailer_login";' in sql
    assert 'CREATE SCHEMA IF NOT EXISTS "mailer";\nGRANT USAGE, CREATE ON SCHEMA "mailer" TO "campaign_mailer";' in sql
    assert re.findall(r"^GRANT .*$", grants, re.MULTILINE) == ['GRANT SELECT ON TABLE campaigns TO "campaign_mailer";']
    assert re.search(r"^user mailer on #[0-9a-f]{64} resetchannels -@all \+ping ~mailer:\* \+get$", acl, re.MULTILINE)
    statement = json.loads(texts["policy-mailer.json"])["Statement"][0]
    assert statement["Resource"] == ["arn:aws:s3:::campaign-assets/mail/*"]
    assert texts["secrets/minio-bootstrap_mailer_credentials"] == f"s3_mailer_access_key{SECRET}\ns3_mailer_secret_key{SECRET}\n"
    assert "mc admin policy create stack campaign-mailer /etc/campaign/policy-mailer.json" in texts["bootstrap.sh"]
    assert "/etc/campaign/policy-mailer.json" in [volume["target"] for volume in base["services"]["minio-bootstrap"]["volumes"]]


def test_the_checks_of_a_service_are_asked(mailer):
    variant, _base, _override, texts = mailer
    checks = [check for check in json.loads(texts["manifest.json"])["checks"] if check["service"] == "mailer"]
    assert checks[0] == {"service": "mailer", "name": "health", "kind": "http", "port": 8025, "path": "/health"}
    assert [check["name"] for check in checks] == ["health", "published"] if variant == "local" else ["health"]
    if variant == "local":
        assert (checks[1]["port"], "when" in checks[1]) == ("28025", False)


def test_the_metrics_of_a_service_are_in_the_manifest(mailer):
    variant, _base, _override, texts = mailer
    metrics = [metric for metric in json.loads(texts["manifest.json"])["metrics"] if metric["service"] == "mailer"]
    queue = {"service": "mailer", "name": "queue", "command": ["node", "queue.mjs", "campaign@example.com"], "limit": 1000}
    sandbox = {"service": "mailer", "name": "sandbox", "command": ["cat", "/run/sandbox"], "expect": 1}
    assert metrics == ([queue, sandbox] if variant == "local" else [queue])


def test_other_roles_know_the_images_and_ports_of_a_service():
    given = {**LOCAL, **WITH_MAILER, "stack_secrets": {name: f"{name}-given" for name in secret_names(WITH_MAILER["stack_services"])}}
    found = summary(given)
    assert "mailer" in found["images"]
    assert found["image_definitions"] == {"mailer": MAILER["images"]["mailer"]}
    assert found["image_places"]["mailer"] == "stack_services.mailer.images.mailer"
    assert {"address": "127.0.0.1", "port": 28025} in found["ports"]
    assert found["images"] == sorted(found["images"])
    without = summary({**LOCAL, "stack_secrets": {name: f"{name}-given" for name in secret_names()}})
    assert set(found["images"]) - set(without["images"]) == {"mailer"}
    assert without["image_definitions"] == {}


@pytest.mark.parametrize("kind", ["postgres", "redis", "s3"])
def test_a_service_reaches_a_server_outside(kind):
    server = {"endpoint": "https://s3.example.com", "path_style": False} if kind == "s3" else {"host": "x.example.com"}
    base, _override, texts = released({**PROD, **WITH_MAILER, f"stack_{kind}_external": {**server, "ca": CA}}, "mailer")
    service = base["services"]["mailer"]
    # It still reaches the stack's own servers.
    assert service["networks"] == [BACKEND, "egress-network"]
    assert set(service["depends_on"]) == {"postgres", "redis", "minio"} - {"minio" if kind == "s3" else kind}
    assert service["environment"]["NODE_EXTRA_CA_CERTS"] == "/etc/campaign/external-ca.pem"
    assert service["environment"].get("S3_PATH_STYLE") == ("false" if kind == "s3" else None)
    assert texts["external-ca.pem"] == CA
    assert base["networks"]["egress-network"] == {}


def test_a_service_with_a_reference_of_its_own_has_an_image_of_its_name():
    entry = {"base": {"services": {"mailer": {"image": "registry.example.com/mailer:1.0.0", "user": "1:1"}}}}
    given = {**PROD, "stack_services": {"mailer": entry}}
    found = summary(given | {"stack_secrets": {name: f"{name[::-1]}-that-is-given-and-long" for name in secret_names()}})
    assert found["image_definitions"] == {"mailer": {"upstream": "registry.example.com/mailer:1.0.0"}}
    assert found["image_places"]["mailer"] == "stack_services.mailer: the image of the container mailer"
    assert found["image_places"]["redis"] == "stack_services.redis: the image of the container redis"
    assert "mailer" in found["images"]
    base, _override, texts = released(given, "mailer")
    # What was resolved for it, such as a digest.
    assert base["services"]["mailer"]["image"] == "campaign/mailer:golden"
    assert json.loads(texts["manifest.json"])["images"]["mailer"] == "campaign/mailer:golden"


def test_a_reference_replaces_an_image_of_the_platform_only_in_its_own_service():
    given = {"stack_secrets": {name: f"{name}-given" for name in secret_names()}}
    services = {
        "redis": {"base": {"services": {"redis": {"image": "registry.example.com/valkey:9"}}}},
        # Its image has another key.
        "postgres": {"base": {"services": {"postgres": {"image": "registry.example.com/postgis:18"}}}},
        "node": {"base": {"services": {"node": {"image": "registry.example.com/other:1"}}}},
    }
    found = summary({**LOCAL, **given, "stack_services": services})["image_definitions"]
    # The role images says of the last that it is the platform's key.
    assert found == {
        "redis": {"upstream": "registry.example.com/valkey:9", "replaces": True},
        "postgres": {"upstream": "registry.example.com/postgis:18"},
        "node": {"upstream": "registry.example.com/other:1"},
    }


def test_a_service_of_the_stack_is_changed_in_place():
    changed = {"base": {"services": {"api": {"environment": {"MAILER_URL": "http://mailer:8025"}, "labels": {"com.example.team": "campaigns"}}}}}
    before, override_before, _texts = released(PROD)
    after, override_after, _texts = released({**PROD, "stack_services": {"api": changed}})
    api = before["services"]["api"]
    api["environment"]["MAILER_URL"], api["labels"] = "http://mailer:8025", {"com.example.team": "campaigns"}
    assert (after, override_after) == (before, override_before)


def test_a_volume_without_options_is_added_to_a_service_of_the_stack():
    entry = {"base": {"services": {"api": {"volumes": ["uploads:/uploads"]}}, "volumes": {"uploads": None}}}
    base, _override, _texts = released({**LOCAL, "stack_services": {"api": entry}})
    assert "uploads" in base["volumes"]


def test_what_jobs_work_on_has_a_digest_unless_it_is_outside():
    def ground(**given):
        return build({**PROD, **given})["manifest"]["ground"]

    named = {"postgres": {"base": {"volumes": {"postgres-data": {"name": "another"}}}}}
    same, other = ground(stack_log_level="debug"), ground(stack_services=named)
    assert same == ground()
    assert same
    assert other not in (same, "")
    assert ground(stack_redis_external={"host": "cache.example.com"}) == ""


def test_an_empty_condition_is_none():
    base, _override, _texts = released({**LOCAL, "stack_services": {"mailer": {**body(), "when": None}}})
    assert "mailer" in base["services"]


def test_what_a_check_expects_of_json_is_taken_out_or_changed():
    def ready(checks: dict) -> dict:
        plan = build({**LOCAL, "stack_services": {"api": {"checks": checks}}})
        return next(check for check in plan["manifest"]["checks"] if check["name"] == "ready")

    assert ready({})["json"] == {"query": "status", "equals": "ok"}
    assert ready({"ready": {"json": {"query": "state"}}})["json"] == {"query": "state", "equals": "ok"}
    assert "json" not in ready({"ready": {"json": None}})


def test_a_check_is_taken_out_by_its_name():
    def checks(given):
        return [(check["service"], check["name"]) for check in build(given)["manifest"]["checks"]]

    before, after = checks(PROD), checks({**PROD, "stack_services": {"frontend": {"checks": {"a page of the application": None}}}})
    assert [check for check in before if check not in after] == [("frontend", "a page of the application")]
    assert len(before) == len(after) + 1


def test_a_service_is_taken_out_with_everything_that_is_its_own():
    base, override, texts = released({**LOCAL, "stack_services": {"scheduler": None}})
    assert "scheduler" not in base["services"]
    assert "scheduler" not in override.get("services", {})
    for name in (".env", "secrets/postgres-bootstrap_bootstrap_sql", "secrets/redis_redis_acl", "manifest.json"):
        assert "scheduler" not in texts[name].lower(), name


# What gives a new volume to MinIO's user is root, and can do nothing else.
OWN_LOOSENED = {"minio-volume": ["cap_add", "network_mode", "user"]}


def test_what_an_entry_loosens_is_in_the_manifest():
    body = {"image": "x:1", "user": "0:0", "read_only": False, "cap_add": ["NET_ADMIN"], "security_opt": [], "network_mode": "host", "pids_limit": 1}
    plan = build({**LOCAL, "stack_services": {"mailer": {"base": {"services": {"mailer": body}}}}}, ["mailer"])
    assert plan["manifest"]["loosened"] == OWN_LOOSENED | {"mailer": ["cap_add", "network_mode", "pids_limit", "read_only", "security_opt", "user"]}
    compose = yaml.safe_load(plan["files"][0]["content"])
    assert "networks" not in compose["services"]["mailer"]
    body = {"image": "x:1", "user": "10005:10005", "environment": {"A": "b"}}
    assert build({**LOCAL, "stack_services": {"mailer": {"base": {"services": {"mailer": body}}}}}, ["mailer"])["manifest"]["loosened"] == OWN_LOOSENED
    assert build({**LOCAL, "stack_services": {"mailer": {"base": {"services": {"mailer": {"image": "x:1"}}}}}}, ["mailer"])["manifest"][
        "loosened"
    ] == OWN_LOOSENED | {"mailer": ["user"]}


@pytest.mark.parametrize(
    ("volume", "is_listed"),
    [
        ("/var/run/docker.sock:/var/run/docker.sock", True),
        ("/run/docker.sock:/socket:ro", True),
        ({"type": "bind", "source": "/run//docker.sock", "target": "/x", "read_only": True}, True),
        ("/var/run/../run/docker.sock:/x", True),
        ("/run/user/1000/docker.sock:/x", True),
        ("/run/containerd/containerd.sock:/x", True),
        # A directory brings along what is in it.
        ("/var/run:/host:ro", True),
        ("/run/user/1000:/host", True),
        ("/:/host:ro", True),
        ("${SOCKET:-/var/run/docker.sock}:/x", True),
        ("/var/run/campaign:/x", False),
        ("/srv/data:/var/run/docker.sock.d", False),
        ("data:/var/run", False),
        ({"type": "volume", "source": "data", "target": "/run"}, False),
        ({"type": "tmpfs", "target": "/run"}, False),
    ],
)
def test_a_mount_of_the_engine_s_socket_loosens(volume, is_listed):
    body = {"image": "x:1", "user": "10005:10005", "volumes": [volume]}
    entry = {"base": {"services": {"mailer": body}, "volumes": {"data": None}}}
    loosened = build({**LOCAL, "stack_services": {"mailer": entry}})["manifest"]["loosened"]
    assert loosened == OWN_LOOSENED | ({"mailer": ["volumes"]} if is_listed else {})


def test_the_volumes_of_another_container_loosen():
    body = {"image": "x:1", "user": "10005:10005", "volumes_from": ["api"]}
    entry = {"base": {"services": {"mailer": body}}}
    assert build({**LOCAL, "stack_services": {"mailer": entry}})["manifest"]["loosened"]["mailer"] == ["volumes"]


def test_how_a_service_is_replaced_is_no_limit():
    first = {"deploy": {"update_config": {"order": "start-first"}}}
    base, override, _texts = released({**PROD, "stack_services": {"mailer": body(**first)}}, "mailer")
    merged = merge(base["services"]["mailer"], override["services"]["mailer"])
    assert merged["deploy"]["update_config"] == {"order": "start-first"}
    assert (merged["deploy"]["resources"]["limits"]["memory"], merged["memswap_limit"]) == ("384m", "384m")


@pytest.mark.parametrize(
    ("own", "first"),
    [
        ({}, False),
        ({"deploy": {"update_config": {"order": "start-first"}}}, True),
        ({"deploy": {"update_config": {"order": "stop-first"}}}, False),
        ({"deploy": {"update_config": None}}, False),
        # There cannot be two of these.
        ({"deploy": {"update_config": {"order": "start-first"}}, "ports": ["127.0.0.1:9999:9999"]}, False),
        ({"deploy": {"update_config": {"order": "start-first"}}, "container_name": "one"}, False),
        ({"deploy": {"update_config": {"order": "start-first"}}, "network_mode": "host"}, False),
        ({"deploy": {"update_config": {"order": "start-first"}}, "network_mode": "service:api"}, False),
        ({"deploy": {"update_config": {"order": "start-first"}}, "mac_address": "02:42:ac:11:00:02"}, False),
        ({"deploy": {"update_config": {"order": "start-first"}}, "networks": {"backend-network": {"ipv4_address": "192.0.2.7"}}}, False),
        ({"deploy": {"update_config": {"order": "start-first"}}, "networks": {"backend-network": {"aliases": ["mail"]}}}, True),
    ],
)
def test_a_service_says_in_compose_s_words_that_it_starts_first(own, first):
    manifest = build({**LOCAL, "stack_services": {"mailer": body(**own)}})["manifest"]
    assert ("mailer" in manifest["start_first"]) is first


def test_a_proxy_of_an_inventory_gets_its_routes():
    entry = {**body(), "routes": {"mailer": {"directory": "/etc/nginx/routes", "to": {"api": 3000}}}}
    plan = build({**LOCAL, "stack_services": {"mailer": entry}})
    assert plan["manifest"]["routes"] == {"frontend": {"api": 3000, "page": 8080}, "mailer": {"api": 3000}}
    mount = {"type": "bind", "source": "/opt/campaign/routes/mailer", "target": "/etc/nginx/routes", "read_only": True, "bind": {"create_host_path": False}}
    compose = yaml.safe_load(next(file["content"] for file in plan["files"] if file["name"] == "docker-compose.yml"))
    assert mount in compose["services"]["mailer"]["volumes"]


@pytest.mark.parametrize("limits", [{"deploy": {"replicas": 1}}, {"deploy": {}}])
def test_a_service_s_own_limits_are_its_limits(limits):
    body = {"image": "x:1", "user": "1:1"}
    for layers in ({"base": {"services": {"mailer": body | limits}}}, {"base": {"services": {"mailer": body}}, "prod": {"services": {"mailer": limits}}}):
        base, override, _texts = released({**PROD, "stack_services": {"mailer": layers}}, "mailer")
        merged = {**base["services"]["mailer"], **override["services"].get("mailer", {})}
        assert merged["deploy"] == limits["deploy"]
        assert "memswap_limit" not in merged


@pytest.mark.parametrize(
    ("own", "pids"),
    [
        ({"deploy": {"resources": {"limits": {"memory": "1g"}}}}, 512),
        ({"deploy": {"resources": {"limits": {"memory": "1g", "pids": 512}}}}, 512),
        ({"deploy": {"resources": {"limits": {"memory": "1g"}}}, "pids_limit": 99}, 99),
        ({"pids_limit": 99}, 99),
    ],
)
@pytest.mark.parametrize("variant", [LOCAL, PROD])
def test_the_limit_of_processes_is_said_twice_and_equal(own, pids, variant):
    base, override, _texts = released({**variant, "stack_services": {"mailer": body(**own)}}, "mailer")
    merged = merge(base["services"]["mailer"], (override.get("services") or {}).get("mailer") or {})
    limits = (merged.get("deploy") or {"resources": {"limits": {"pids": pids}}})["resources"]["limits"]
    assert (merged["pids_limit"], limits["pids"]) == (pids, pids)


def test_what_a_layer_changes_stays_where_a_limit_is_added_to_it():
    entry = body(deploy={"resources": {"limits": {"memory": "1g"}}}) | {"dev": {"services": {"mailer": {"restart": "no"}}}}
    _base, override, _texts = released({**LOCAL, "stack_services": {"mailer": entry}}, "mailer")
    assert override["services"]["mailer"] == {"restart": "no", "deploy": {"resources": {"limits": {"pids": 512}}}}


@pytest.mark.parametrize("own", [{"mem_limit": "1g"}, {"cpus": 2}])
def test_limits_in_compose_s_older_words_are_limits_too(own):
    base, override, _texts = released({**PROD, "stack_services": {"mailer": body(**own)}}, "mailer")
    assert "deploy" not in merge(base["services"]["mailer"], override["services"].get("mailer") or {})


@pytest.mark.parametrize("networks", [{}, [], None])
def test_a_service_without_a_network_has_no_way_out(networks):
    base, _override, _texts = released({**LOCAL, "stack_services": {"mailer": body(networks=networks)}}, "mailer")
    assert base["services"]["mailer"]["networks"] == [BACKEND]


def test_a_mode_of_networking_in_one_variant_is_the_only_one():
    entry = body() | {"dev": {"services": {"mailer": {"network_mode": "host"}}}}
    base, _override, _texts = released({**LOCAL, "stack_services": {"mailer": entry}}, "mailer")
    assert "networks" not in base["services"]["mailer"]


def test_the_timing_of_a_healthcheck_is_changed_by_a_layer_and_not_reset():
    entry = body(healthcheck={"test": ["CMD", "x"], "start_period": "300s"}) | {"prod": {"services": {"mailer": {"healthcheck": {"interval": "60s"}}}}}
    _base, override, _texts = released({**PROD, "stack_services": {"mailer": entry}}, "mailer")
    assert override["services"]["mailer"]["healthcheck"] == {"interval": "60s"}


def test_what_belongs_to_a_container_of_the_other_variant_is_left_out():
    seed = {"image": "x:1", "user": "1:1"}
    entry = body() | {"dev": {"services": {"seed": seed}}, "jobs": {"seed": {}}, "secrets": {"seed": ["token"]}, "configs": {"seed": {"/a": {"content": "x"}}}}
    # The job that grants waits for all other jobs.
    entry |= {"logins": {"postgres": {"mailer": {"grants": ["SELECT ON TABLE campaigns"]}}}}
    plan = build({**PROD, "stack_services": {"mailer": entry}})
    assert "seed" not in json.dumps(plan["manifest"]) + "".join(file["content"] for file in plan["files"])
    assert "seed" in build({**LOCAL, "stack_services": {"mailer": entry}}, ["mailer", "seed"])["manifest"]["jobs"]


def test_a_service_that_is_left_out_fetches_no_secrets():
    entry = body() | {"when": False, "needs": {"mailer": {"redis": "mailer"}}, "logins": {"redis": {"mailer": {"acl": "+ping"}}}}
    given = {"stack_services": {"mailer": entry}, "stack_aws_runtime_secret_ids": {"mailer": "campaign/mailer"}, "stack_aws_region": "eu-west-1"}
    base, _override, _texts = released({**PROD, **given})
    assert "mailer" not in base["services"]


def test_a_dollar_sign_that_stays_and_a_variable_with_a_default_are_taken():
    build({**LOCAL, "stack_services": {"mailer": body(environment={"A": "$$HOME ${B:-b} ${C-c} ${POSTGRES_DB:?} $LOG_LEVEL"})}}, ["mailer"])


def test_a_service_of_one_variant_is_whole():
    entry = {
        "base": {"services": {"mailer": {"image": "x:1", "user": "1:1"}}},
        "dev": {"services": {"mail-ui": {"image": "y:1", "user": "1:1", "ports": ["127.0.0.1:28026:80"]}}},
    }
    given = {**LOCAL, "stack_services": {"mailer": entry}}
    _base, override, texts = released(given, "mailer", "mail-ui")
    service = override["services"]["mail-ui"]
    assert (service["image"], service["networks"], service["read_only"], service["cap_drop"]) == ("campaign/mail-ui:golden", [BACKEND], True, ["ALL"])
    assert json.loads(texts["manifest.json"])["loosened"] == OWN_LOOSENED
    base, override, _texts = released({**PROD, "stack_services": {"mailer": entry}}, "mailer")
    assert "mail-ui" not in {**base["services"], **override["services"]}


def body(**keys):
    return {"base": {"services": {"mailer": {"image": "x:1", "user": "1:1", **keys}}}}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            body(image=None),
            "stack_services.mailer: the container mailer has no image. Give it one: image: '{{ image.KEY }}' with KEY in images, or a reference.",
        ),
        (
            body(depends_on={"postgrs": {"condition": "service_healthy"}}),
            "stack_services.mailer: the container mailer depends on postgrs, which is not there. Did you mean postgres?",
        ),
        (
            {"jobs": {"seed": {}}, "base": {"services": {"seed": {"image": "x:1"}, "mailer": {"image": "x:1", "depends_on": ["seed"]}}}},
            "stack_services.mailer: the container mailer depends on the job seed. Jobs end before services are started, so take that out.",
        ),
        (
            body(environment={"A": "${MAILR_FROM}"}),
            "stack_services: services.mailer.environment.A refers to ${MAILR_FROM}, which is not a setting, so it would be empty.",
        ),
        (body(command=["sh", "-c", "echo $HOME"]), "stack_services: services.mailer.command refers to ${HOME}, which is not a setting"),
        (
            body(networks=["frontend-netwrk"]),
            "stack_services.mailer: the container mailer names frontend-netwrk, which is not among the networks of any layer.",
        ),
        (body(volumes=["data:/data"]), "stack_services.mailer: the container mailer names data, which is not among the volumes of any layer."),
        (
            body(volumes=[{"type": "volume", "source": "data", "target": "/data"}]),
            "stack_services.mailer: the container mailer names data, which is not among the volumes of any layer.",
        ),
        (
            body(environment={"NODE_OPTIONS": "--max-old-space-size=240"}, deploy={"resources": {"limits": {"memory": "256m"}}}),
            "stack_services.mailer: the container mailer has --max-old-space-size in NODE_OPTIONS of 240 MiB, but 256 MiB of memory,",
        ),
        (
            body(environment=["NODE_OPTIONS=--max-old-space-size 240"], mem_limit="256m"),
            "stack_services.mailer: the container mailer has --max-old-space-size in NODE_OPTIONS of 240 MiB, but 256 MiB of memory,",
        ),
        (
            body(command="redis-server --maxmemory 200mb", deploy={"resources": {"limits": {"memory": "256m"}}}),
            "stack_services.mailer: the container mailer has --maxmemory in its command of 200 MiB, but 256 MiB of memory,",
        ),
        (
            {**body(), "routes": {"mailer": {"directory": "/etc/nginx/routes", "to": {"apii": 3000}}}},
            "stack_services: the routes of mailer name apii, which is not there. Did you mean api?",
        ),
        (body(deploy={"replicas": 2}), "stack_services.mailer: the container mailer has deploy.replicas, but each service has one container here."),
        (body(networks=[BACKEND], network_mode="host"), "stack_services.mailer: the container mailer has network_mode, which leaves no room for networks."),
        ({"base": {"services": {"mailer": "mailer"}}}, "stack_services.mailer cannot be used: base.services.mailer is a text. Give a mapping"),
        (body(secrets=["token"]), "stack_services.mailer: the container mailer has secrets of Compose. They stand in the entry itself"),
        (body(profiles=["debug"]), "stack_services.mailer: the container mailer has profiles, so nothing would start it."),
        *[
            (
                {**body(), "logins": {"redis": {"mailer": {"acl": "+ping", "user": user}}}},
                f"stack_services.mailer.logins.redis.mailer: the name {user} belongs to",
            )
            for user in ("api", "default", "health")
        ],
        *[
            ({**body(), "logins": {"postgres": {"mailer": {key: name}}}}, f"stack_services.mailer.logins.postgres.mailer: the name {name} belongs to")
            for key, name in [("user", "campaign_api_login"), ("role", "campaign_api"), ("role", "campaign_api_login")]
        ],
        (
            {**body(), "logins": {"s3": {"mailer": {"access_key": "s3_access_key", "policy": POLICY}}}},
            "stack_services.mailer.logins.s3.mailer: the access key belongs to the login api already. Give it one of its own.",
        ),
        (
            {**body(), "secrets": {"mailer": ["mail_token"]}, "settings": {"MAIL_TOKEN": {"pattern": ".*", "hint": "x", "default": "a default"}}},
            "stack_services.mailer.settings.MAIL_TOKEN has the name of the secret mail_token in .env.local. Choose another.",
        ),
        (
            {**body(), "settings": {"SECRETS": {"pattern": ".*", "hint": "x", "default": "y"}}},
            "stack_services.mailer.settings.SECRETS: stack_secrets is a variable of the role already. Choose another name.",
        ),
        (body(depends_on=["postgrs"]), "stack_services.mailer: the container mailer depends on postgrs, which is not there. Did you mean postgres?"),
        (
            {**body(user="node"), "secrets": {"mailer": ["jwt_secret"]}},
            "stack_services.mailer: the container mailer reads secret files, so it needs a numeric user, such as user: '10001:10001'.",
        ),
        ({**body(), "secrets": {"mailr": ["jwt_secret"]}}, "stack_services.mailer.secrets.mailr: the entry has no such container. Did you mean mailer?"),
        (
            {**body(), "configs": {"mailr": {"/a": {"content": "x"}}}},
            "stack_services.mailer.configs.mailr: the entry has no such container. Did you mean mailer?",
        ),
        ({**body(), "jobs": {"mailr": {}}}, "stack_services.mailer.jobs.mailr: the entry has no such container. Did you mean mailer?"),
        (
            {"base": {"services": {"mail-1": {"image": "x:1"}}}, "checks": {"a": {"kind": "tcp", "port": 1}}},
            "stack_services: the check a asks the service mailer, which is not there. Did you mean mail-1?",
        ),
        (
            {**body(), "checks": {"a": {"kind": "http", "port": 1, "json": {"query": "{{ 'b' ~ '[' }}"}}}},
            "stack_services: the check a of mailer: json.query: it is not a JMESPath expression: Invalid jmespath expression: Incomplete expression:",
        ),
        *[
            (
                {
                    **body(),
                    "needs": {"mailer": {"postgres": "mailer"}},
                    "logins": {"postgres": {"mailer": {}}},
                    "secrets": {"mailer": {"database_url": source}},
                },
                "stack_services.mailer.secrets.mailer.database_url: mailer has a secret file of that name already, which needs or a login gives it.",
            )
            for source in ("{{ secret.postgres_mailer_password }}", {"content": "x"})
        ],
        (
            {**body(), "logins": {"s3": {"root": {"policy": POLICY}}}},
            "stack_services.mailer.logins.s3.root.root_credentials: minio-bootstrap has a secret file of that name already",
        ),
        (
            body(ports=["127.0.0.1:8080:80"]),
            "FRONTEND_PORT and port 8080 of mailer are the same port. Give each its own, in .env.local or by its variable, such as stack_frontend_port.",
        ),
        (
            body(environment={"A": "{{ nowhere }}"}),
            "stack_services.mailer cannot be used: it refers to nowhere, which is not defined. Define that, or correct the name.",
        ),
        (
            {**body(), "configs": {"mailer": {"/a": {"template": "/nowhere/a.j2"}}}},
            "stack_services.mailer cannot be used: /nowhere/a.j2 cannot be read (No such file or directory).",
        ),
        (
            {**body(), "logins": {"redis": {"mailer": {"acl": "{{ nowhere }}"}}}},
            "stack_services.mailer.logins.redis.mailer cannot be used: it refers to nowhere, which is not defined. Define that, or correct the name.",
        ),
        (
            {**body(), "logins": {"s3": {"mailer": {"policy": {"template": "/nowhere/a.j2"}}}}},
            "stack_services.mailer.logins.s3.mailer cannot be used: /nowhere/a.j2 cannot be read (No such file or directory).",
        ),
    ],
)
def test_what_rendering_an_entry_shows_to_be_wrong_is_reported(entry, told):
    services = {"mailer": entry}
    (problem,) = problems_of({**LOCAL, "stack_services": services, "stack_secrets": {name: f"{name}-given" for name in secret_names(services)}})
    assert problem.startswith(told)


def test_a_release_is_not_built_from_what_is_wrong():
    given = {
        **LOCAL,
        "stack_services": {"mailer": body(environment={"A": "{{ nowhere }}"})},
        "stack_secrets": {name: f"{name}-given" for name in secret_names()},
    }
    declared, renderer, problems = declare(given)
    assert problems == []
    with pytest.raises(TextError, match="it refers to nowhere"):
        release.build(declared, renderer, {key: f"{key}:1" for key in [*IMAGES, "mailer"]})


def test_the_same_inputs_give_the_same_release_and_others_another():
    assert build(PROD)["release"] == build(PROD)["release"]
    assert re.fullmatch("[0-9a-f]{12}", build(PROD)["release"])
    releases = [
        build(given)["release"]
        for given in (PROD, LOCAL, PROD | {"stack_log_level": "warn"}, PROD | {"stack_secrets": {"jwt_secret": "another-secret-of-more-than-32-characters"}})
    ]
    assert len(set(releases)) == len(releases)
    # The directory of the stack is not part of what it is.
    assert build(PROD | {"stack_keep_releases": 9})["release"] == build(PROD)["release"]


def test_a_changed_value_recreates_its_consumers_and_nothing_else():
    def sources(**secrets):
        compose = yaml.safe_load(build(PROD | {"stack_secrets": secrets})["files"][0]["content"])
        return {name: [secret["source"] for secret in service.get("secrets", [])] for name, service in compose["services"].items()}

    before, after = sources(), sources(redis_scheduler_password="another-value-of-this-password")
    # Redis itself goes on: its jobs tell it.
    assert {name for name in before if before[name] != after[name]} == {"scheduler", "redis-bootstrap", "redis-retire"}
    assert sources() == before
    # Under another key all names are others, so that none of them can be guessed at. Two stay, whose readers a job tells.
    other = sources(generation_key="another-key-of-more-than-32-characters")
    same = {source for name in before for source in set(before[name]) & set(other[name])}
    assert same == {"postgres_postgres_password", "redis_redis_acl"}


def test_a_generation_depends_on_every_part_and_on_the_key():
    base = generation("key", "api", "jwt", "value")
    assert re.fullmatch("[0-9a-f]{12}", base)
    others = [
        ("k", "api", "jwt", "value"),
        ("key", "ap", "ijwt", "value"),
        ("key", "api", "jwtv", "alue"),
        ("key", "api", "jwt", "value "),
        ("key", "b", "jwt", "value"),
    ]
    assert len({base, *(generation(*parts) for parts in others)}) == len(others) + 1
    # HMAC-SHA-256 of RFC 2104, so that whoever has the name cannot try values without the key.
    assert base == hmac.new(b"key", b"3:api3:jwt5:value", hashlib.sha256).hexdigest()[:12]


def test_a_secret_file_belongs_to_its_consumer():
    files = secret_files({"api": {"jwt": "v"}, "empty": {}}, {"api": {"user": "10001:10002"}}, "key", "/opt/x/secrets")
    name = f"api_jwt_{generation('key', 'api', 'jwt', 'v')}"
    assert files == [
        {
            "consumer": "api",
            "target": "jwt",
            "source": name,
            "path": f"/opt/x/secrets/{name}",
            "uid": 10001,
            "gid": 10002,
            "content": "v",
            "earlier": False,
            "stable": False,
        }
    ]
    for user in ({}, {"user": "node"}, {"user": "1000"}, {"user": "1:1:1"}):
        with pytest.raises(TextError, match="The service api reads secrets, so it needs a numeric user"):
            secret_files({"api": {"jwt": "s3cret"}}, {"api": user}, "key", "/x")


def test_secret_files_of_the_stack_belong_to_the_users_of_the_images():
    owners = {secret["path"].rpartition("/")[2].partition("_")[0]: (secret["uid"], secret["gid"]) for secret in build(PROD)["secrets"]}
    assert owners == {
        "api": (10001, 10001),
        "api-migrate": (10001, 10001),
        "rules-engine": (10002, 10002),
        "scheduler": (10003, 10003),
        "redis": (999, 1000),
        "postgres": (999, 999),
        "postgres-bootstrap": (999, 999),
        "minio": (1000, 1000),
        "minio-bootstrap": (1000, 1000),
        "minio-retire": (1000, 1000),
        "redis-bootstrap": (999, 1000),
        "redis-retire": (999, 1000),
    }


def test_a_config_file_has_a_name_of_its_content():
    one, two = config_files({"api": {"/etc/a.conf": "one"}, "b": {"/etc/x/a.conf": "two"}}, "/opt/x")
    assert re.fullmatch(r"config/[0-9a-f]{12}/a\.conf", one["path"])
    assert one["source"] == f"/opt/x/{one['path']}"
    assert one["path"] != two["path"]
    assert config_files({"c": {"/a.conf": "one"}}, "/")[0]["path"] == one["path"]


def test_a_compose_file_is_in_the_order_of_a_reader():
    given = {"services": {"a": {"logging": {}, "weird": 1, "restart": "no", "user": "1:1", "image": "x"}}, "networks": {}, "volumes": {}}
    assert list(ordered(given)) == ["networks", "services", "volumes"]
    assert list(ordered(given)["services"]["a"]) == ["image", "user", "weird", "restart", "logging"]
    assert ordered(given) == given


def test_a_text_that_no_container_can_be_given_is_refused():
    body = {"base": {"services": {"api": {"environment": {"A": "a\0b"}}}}}
    (problem,) = problems_of({**LOCAL, "stack_services": {"api": body}, "stack_secrets": {name: f"{name}-given" for name in secret_names()}})
    assert problem.startswith("stack_services: services.api.environment.A holds a NUL byte")


def test_expressions_of_an_inventory_use_its_own_variables():
    given = {**LOCAL, "stack_services": {"api": {"base": {"services": {"api": {"environment": {"TEAM": "{{ team }}"}}}}}}, "team": "campaigns"}
    base, _override, _texts = released(trusted(given))
    assert base["services"]["api"]["environment"]["TEAM"] == "campaigns"


def test_passwords_of_any_characters_reach_the_servers_as_they_are():
    password = "a'b:c\\d e-and-more-of-it"
    texts = secret_texts(build(PROD | {"stack_secrets": {"postgres_password": password, "postgres_api_password": f"{password}-2"}}))
    assert texts["postgres-bootstrap_pgpass"] == "postgres:5432:*:campaign_user:a'b\\:c\\\\d e-and-more-of-it\n"
    assert "PASSWORD 'a''b:c\\d e-and-more-of-it-2';" in texts["postgres-bootstrap_bootstrap_sql"]
    assert "a%27b%3Ac%5Cd%20e-and-more-of-it-2@" in texts["api_database_url"]


def test_no_secret_file_is_empty():
    assert [name for name, text in secret_texts(build(PROD | WITH_MAILER, ["mailer"])).items() if not text.strip()] == []


LEAKS = {
    "an address": {"base": {"services": {"api": {"environment": {"X": "u:{{ stack_secrets.jwt_secret | replace('-', '%2D') }}@x"}}}}},
    "a volume's options": {"base": {"volumes": {"v": {"driver_opts": {"o": "password={{ stack_secrets.jwt_secret }}"}}}}},
    "a setting": {"settings": {"X": {"pattern": ".*", "hint": "x", "default": "{{ stack_secrets.jwt_secret }}"}}},
    "an environment": {"base": {"services": {"api": {"environment": {"X": "a {{ stack_secrets.jwt_secret }}"}}}}},
    "a layer": {"dev": {"services": {"api": {"labels": {"x": "{{ stack_secrets.jwt_secret }}"}}}}},
    "a command": {"base": {"services": {"api": {"command": ["x", "{{ stack_secrets.jwt_secret }}"]}}}},
    "a config file": {"configs": {"api": {"/etc/x": {"content": "{{ stack_secrets.jwt_secret }}"}}}},
    "a metric": {"metrics": {"x": {"command": ["cat", "{{ stack_secrets.jwt_secret }}"]}}},
    "a check": {"checks": {"x": {"kind": "http", "port": 1, "path": "/{{ stack_secrets.jwt_secret }}"}}},
}


PLACES = {
    "an address": "services.api.environment.X",
    "a volume's options": "volumes.v.driver_opts.o",
    "a setting": "settings.X",
    "an environment": "services.api.environment.X",
    "a layer": "services.api.labels.x",
    "a command": "services.api.command",
    "a config file": "configs.api./etc/x",
    "a metric": "metrics.command",
    "a check": "checks.path",
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_secret_stands_in_no_text_that_is_not_secret(kind):
    entry = LEAKS[kind]
    given = {**LOCAL, "stack_services": {"api": entry}, "stack_secrets": {name: f"{name}-given-for-the-test" for name in secret_names()}}
    (problem,) = problems_of(given)
    assert problem.startswith(f"{PLACES[kind]} holds the value of the secret jwt_secret, ")
    assert "given-for-the-test" not in problem
    declared, renderer, _problems = declare(given)
    with pytest.raises(TextError, match="jwt_secret"):
        release.build(declared, renderer, {key: f"campaign/{key}:golden" for key in IMAGES})


def test_a_short_secret_of_a_laptop_may_be_a_word():
    secrets = {name: f"{name}-given-for-the-test" for name in secret_names()} | {"operator_password": "campaign"}
    assert problems_of({**LOCAL, "stack_secrets": secrets}) == []


def test_a_key_of_another_issuer_is_needed_and_never_generated():
    services = {"api": {"secrets": {"api": {"smtp_password": {"generated": False}}}}}
    catalogue, _problems = declaration.combined(tables(), services)
    known = declaration.known_secrets(tables(), catalogue)
    assert "smtp_password" in known.needed
    assert "smtp_password" not in known.generated
    given = {**LOCAL, "stack_services": services, "stack_generate_secrets": True, "stack_generated_secrets_file": "/nowhere/secrets.json"}
    assert problems_of(given) == ["stack_secrets.smtp_password is missing. Give it in the vault or in AWS; it cannot be generated."]
    assert problems_of({**given, "stack_secrets": {"smtp_password": "given-for-the-test"}}) == []


@pytest.mark.parametrize(("memory", "swap"), [("1g", "1g"), ("600m", "600m"), ("448m", "512m")])
def test_a_raised_limit_of_memory_raises_that_of_swap(memory, swap):
    limits = {"redis": {"prod": {"services": {"redis": {"deploy": {"resources": {"limits": {"memory": memory}}}}}}}}
    files = {file["name"]: file["content"] for file in build({"stack_variant": "prod", "stack_services": limits})["files"]}
    redis = yaml.safe_load(files["docker-compose.prod.yml"])["services"]["redis"]
    assert redis["deploy"]["resources"]["limits"]["memory"] == memory
    assert redis["memswap_limit"] == swap


@pytest.mark.parametrize(("size", "number"), [("512m", 512 << 20), ("1g", 1 << 30), ("1GB", 1 << 30), ("64k", 65536), ("100", 100), (7, 7), ("-1", 0)])
def test_sizes_are_read_as_compose_spells_them(size, number):
    assert release.bytes_of(size) == number


@pytest.mark.parametrize(
    ("server", "row"),
    [
        ("redis", {"acl": "+ping\nuser evil on nopass +@all"}),
        ("postgres", {"grants": ["SELECT ON TABLE x TO public; DROP TABLE x"]}),
        ("postgres", {"schema": "a\nb"}),
    ],
)
def test_what_a_login_may_do_is_one_line(server, row):
    problems = problems_of({**LOCAL, "stack_services": {"api": {"logins": {server: {"x": row}}}}})
    assert any("must be one line without a semicolon" in problem for problem in problems)
