# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy stages: the expected files, reviewed as a diff, and what must hold for every service in them."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
OVERRIDES = {"local": "docker-compose.dev.yml", "prod": "docker-compose.prod.yml", "prod-tls": "docker-compose.prod.yml"}
PROD = ["prod", "prod-tls"]
SERVICES = {"postgres", "redis", "minio", "api", "rules-engine", "scheduler", "frontend"}
VOLUMES = {"postgres-data", "redis-data", "minio-data"}
# What tests/golden/render.yml ends every secret with.
SECRET = "-of-the-golden-files"
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
def rendered(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("rendered")
    done = subprocess.run(["tests/golden/render", str(directory)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def composed(rendered):
    def compose(variant: str) -> dict:
        base, override = (yaml.safe_load((rendered / variant / name).read_text()) for name in ("docker-compose.yml", OVERRIDES[variant]))
        return merge(base, override)

    return {variant: compose(variant) for variant in OVERRIDES}


def long_running(compose: dict) -> dict:
    return {name: service for name, service in compose["services"].items() if "profiles" not in service}


@by_variant
def test_the_expected_files_are_rendered(rendered, variant):
    def files(directory: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(directory.iterdir())}

    assert files(rendered / variant) == files(GOLDEN / variant), "If the change is wanted, run `make golden` and review its diff."


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
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), f"{name}: a fixed uid and gid that is not root's"
        assert service["pids_limit"] > 0, name
        assert service["logging"]["options"]["max-size"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service), name


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
def test_no_secret_stands_in_a_file_that_is_no_secret(rendered, variant):
    assert [path.name for path in (rendered / variant).iterdir() if SECRET in path.read_text()] == []


@by_variant
def test_every_secret_has_one_consumer(composed, variant):
    compose = composed[variant]
    used = [secret["source"] for service in compose["services"].values() for secret in service.get("secrets", [])]
    assert sorted(used) == sorted(compose["secrets"])
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"/opt/campaign/secrets/{name}"}
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
    assert set(ports) == {"frontend", "api", "minio", "postgres", "redis"}
    for name, published in ports.items():
        assert all(re.fullmatch(r"\$\{BIND_ADDRESS:\?\}:\$\{[A-Z_]+_PORT:\?\}:\d+", port) for port in published), name
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


def test_with_tls_the_key_is_the_frontend_s_secret_and_the_certificate_is_not(composed, rendered):
    frontend = composed["prod-tls"]["services"]["frontend"]
    assert [secret["target"] for secret in frontend["secrets"]] == ["tls_private_key"]
    assert "/etc/nginx/tls/certificate.pem" in [volume["target"] for volume in frontend["volumes"]]
    assert "secrets" not in composed["prod"]["services"]["frontend"]
    assert "ssl" not in (rendered / "prod/default.conf").read_text()


@by_variant
def test_no_part_of_the_frontend_s_site_drops_the_security_headers(rendered, variant):
    # nginx hands add_header down only to where there is none, so all of them stand at the top.
    text = re.sub(r"^\s*#.*\n", "", (rendered / variant / "default.conf").read_text(), flags=re.MULTILINE)
    assert re.findall(r"^(\s*)add_header", text, re.MULTILINE) == [""] * (7 if variant == "local" else 8)
    assert text.count("server_tokens off;") == len(re.findall(r"^server \{", text, re.MULTILINE))


@by_variant
def test_the_compose_linter_finds_nothing(composed, rendered, variant, tmp_path):
    # It is shown what runs: the files as Compose merges them, beside the values that Compose fills in.
    settings = (rendered / variant / ".env").read_text().splitlines()
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
def test_prod_mounts_no_sources(rendered, variant):
    assert "/srv/campaign/app" not in "".join(path.read_text() for path in (rendered / variant).iterdir())


def names_in(path: Path, also_commented: bool = False) -> set[str]:
    return set(re.findall(rf"^{'#? ?' if also_commented else ''}([A-Z][A-Z0-9_]*)=", path.read_text(), re.MULTILINE))


def test_the_example_of_the_environment_is_complete(rendered):
    assert names_in(ROOT / ".env.example") == names_in(rendered / "local/.env")


def test_the_example_of_the_local_environment_is_complete():
    settings = (ROOT / "roles/stack/vars/main/settings.yml").read_text()
    keys = {key for name in ("settings", "env_local_secrets", "env_local_urls") for key in yaml.safe_load(settings)[f"__stack_{name}"]}
    assert names_in(ROOT / ".env.local.example", also_commented=True) == keys
