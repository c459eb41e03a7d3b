# SPDX-License-Identifier: GPL-3.0-or-later
"""All hostile values on all paths at once: one run of Ansible, one Compose project, one login script for each server."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.campaign.platform.plugins.plugin_utils.release import Rendered
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import to_compose

from .stack import TABLES, render
from .values import KEYS, REFUSED, VALUES, password

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
PROJECT = "campaign-hostile"
# No environment variable, label, argument or YAML document of the engine can hold it.
SENT = [kind for kind in VALUES if kind != "NUL"]
VAULT_PASSWORD = "the password of the tests"


class _Dumper(yaml.SafeDumper):
    """Writes files of variables as the documentation asks for."""


class Text(str):
    """A text in quotes, which stands behind !unsafe where Ansible would take it for a template."""


class Unsafe(str):
    """A text behind !unsafe."""


class Vault(str):
    """A text encrypted by itself."""


def _represent_text(dumper: yaml.SafeDumper, text: Text) -> yaml.ScalarNode:
    template = any(mark in text for mark in ("{{", "{%", "{#"))
    return dumper.represent_scalar("!unsafe" if template else "tag:yaml.org,2002:str", str(text), style='"')


_Dumper.add_representer(Text, _represent_text)
_Dumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"'))
_Dumper.add_representer(Vault, lambda dumper, text: dumper.represent_scalar("!vault", str(text), style="|"))


def image(name: str) -> str:
    return json.loads((ROOT / ".cache/tests/images.json").read_text())[name]


def joined(name: str, values: dict[str, str], limit: int) -> str:
    """All values that the secret may have as one, for servers that have one secret and take seconds to start."""
    return "".join(text for kind, text in values.items() if kind not in REFUSED[name] and len(text) < limit)


JOINED = {
    "postgres_password": joined("postgres_password", VALUES, 4096),
    "minio_root_password": joined("minio_root_password", VALUES, 512),
    "minio_root_user": joined("minio_root_user", VALUES, 128),
}
HARMLESS = {name: f"harmless-{name}" for name in REFUSED}
OWNER = {name: JOINED[name] for name in ("minio_root_user", "minio_root_password")}


def quoted(value: str) -> str:
    """In double quotes, as docs/values.md has it, by other means than the product's."""
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("$", "\\$"), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(character, escape)
    return f'"{value}"'


def handed() -> dict[str, dict[str, str]]:
    """The stack's secrets for every value: the value wherever it is not refused."""
    found = {"JOINED": HARMLESS | JOINED | {"postgres_api_user": "joined", "redis_api_user": "joined"}}
    # A key that looks like the name of its policy.
    found["NAMED"] = HARMLESS | OWNER | {"s3_access_key": "campaign-api", "postgres_api_user": "named", "redis_api_user": "named"}
    for kind, key in KEYS.items():
        open_to = {name: password(kind) for name, refused in REFUSED.items() if kind not in refused}
        names = {"postgres_api_user": key.lower(), "redis_api_user": key.lower()}
        found[key] = HARMLESS | {"s3_access_key": key} | open_to | names | OWNER
        # The one whose password file is tried after each bootstrap.
        found[key]["postgres_rules_engine_password"] = found[key]["postgres_password"]
    return found


def entry(directory: Path) -> dict:
    """The catalogue's entry of the container that reports what reached it, as an inventory has it."""
    literal = {kind: Text(VALUES[kind].replace("$", "$$")) for kind in SENT}
    anything = {"pattern": Text("[\\s\\S]*"), "hint": "anything"}
    service = {
        "image": image("dev"),
        "user": "10001:10001",
        "command": ["node", "report.mjs", *literal.values()],
        "environment": {KEYS[kind]: f"${{{KEYS[kind]}?}}" for kind in SENT} | {f"LITERAL_{KEYS[kind]}": literal[kind] for kind in SENT},
        "labels": {KEYS[kind].lower(): literal[kind] for kind in SENT},
        "volumes": [f"{HERE}/report.mjs:/app/report.mjs:ro"],
        "restart": "no",
    }
    return {
        "settings": {KEYS[kind]: anything for kind in SENT},
        # A value that anyone may know: the same one stands in the environment and in a config file, where a secret's is refused.
        "secrets": {"hostile": {secret_name(key): {**anything, "strong": 0} for key in KEYS.values()}},
        "configs": {"hostile": {f"/etc/hostile/{key}": {"template": f"{directory}/{key}.j2"} for key in KEYS.values()}},
        "base": {"services": {"hostile": service}},
    }


def secret_name(key: str) -> str:
    """Return the name of a value's secret. The key itself is the name of the setting."""
    return f"{key.lower()}_file"


def variables(directory: Path) -> dict:
    vault = VaultLib([("default", VaultSecret(VAULT_PASSWORD.encode()))])
    return {
        "stack_variant": "local",
        "stack_project": PROJECT,
        "stack_directory": f"{directory}/stack",
        "stack_env_local": f"{{{{ lookup('campaign.platform.env_file', '{directory}/.env.local') }}}}",
        "stack_secrets": {secret_name(KEYS[kind]): Text(value) for kind, value in VALUES.items()} | {"generation_key": HARMLESS["generation_key"]},
        # Nothing of the stack's own, because its servers take seconds to start and have values of their own below.
        "stack_services": {**dict.fromkeys(TABLES.services), "hostile": entry(directory)},
        "hostile_images": {"hostile": image("dev")},
        "hostile_directory": str(directory),
        "hostile_values": {KEYS[kind]: Text(value) for kind, value in VALUES.items()},
        "hostile_sources": {
            "encrypt_string": {KEYS[kind]: Vault(vault.encrypt(value).decode()) for kind, value in VALUES.items()},
            "unsafe": {KEYS[kind]: Unsafe(value) for kind, value in VALUES.items()},
            "template": "a{{ 1 + 1 }}b",
        },
    }


def run(*command: str, timeout: int = 120, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
    assert done.returncode == 0, f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def staged(tmp_path_factory) -> Path:
    """The directory in which Ansible left the release and what it made of the values."""
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "stage.yml").write_text((HERE / "stage.yml").read_text())
    for key in KEYS.values():
        (directory / f"{key}.j2").write_text(f"<{{{{ hostile_values.{key} }}}}>\n")
    (directory / ".env.local").write_bytes("".join(f"{KEYS[kind]}={quoted(VALUES[kind])}\n" for kind in SENT).encode())
    (directory / "password").write_text(VAULT_PASSWORD)
    text = yaml.dump(variables(directory), Dumper=_Dumper, allow_unicode=False, width=10**6)
    vault = VaultLib([("default", VaultSecret(VAULT_PASSWORD.encode()))])
    (directory / "values.yml").write_bytes(vault.encrypt(text))
    run(
        "ansible-playbook",
        *("-i", "localhost,", "-c", "local", "--vault-password-file", str(directory / "password"), "-e", f"@{directory}/values.yml"),
        str(directory / "stage.yml"),
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
    )
    return directory


@pytest.fixture(scope="session")
def sources(staged) -> dict:
    """What became of values in an inventory's file."""
    return json.loads((staged / "sources.json").read_text())


@pytest.fixture(scope="session")
def rendered() -> dict[str, Rendered]:
    """The stack with each value wherever it is not refused."""
    return {key: render(stack_secrets=secrets) for key, secrets in handed().items()}


def hand_out(directory: Path, rendered: dict[str, Rendered]) -> None:
    """Write what each login needs into a directory of its own."""
    for key, given in rendered.items():
        superuser = key == "JOINED"
        login = "campaign_user" if superuser else key.lower()
        secrets, configs = given.secrets, given.configs["minio-bootstrap"]
        root = secrets["minio"]
        files = {
            "login": login,
            "database_url": secrets["api-migrate" if superuser else "api"]["database_url"],
            "redis_url": secrets["api"]["redis_url"],
            "s3_access_key": root["minio_root_user"] if superuser else secrets["api"]["s3_access_key"],
            "s3_secret_key": root["minio_root_password"] if superuser else secrets["api"]["s3_secret_key"],
            "bootstrap_sql": secrets["postgres-bootstrap"]["bootstrap_sql"],
            # The line is the superuser's, which is one for all values; so another login stands in for it.
            "pgpass": secrets["postgres-bootstrap"]["pgpass"].replace(
                ":campaign_user:", ":campaign_user:" if superuser else ":campaign_rules_engine_login:", 1
            ),
            "policy-api.json": configs["/etc/campaign/policy-api.json"],
            "bootstrap.sh": configs["/etc/campaign/bootstrap.sh"].replace("/run/secrets/", f"/hostile/{key}/").replace("/etc/campaign/", f"/hostile/{key}/"),
            **secrets["minio-bootstrap"],
        }
        (directory / key).mkdir(parents=True)
        for name, text in files.items():
            path = directory / key / name
            path.write_bytes(text.encode())
            path.chmod(0o444)
        os.chown(directory / key / "pgpass", 999, 999)
        (directory / key / "pgpass").chmod(0o400)


def servers(directory: Path) -> str:
    """The Compose file of the servers, with the secrets that the role renders for them."""

    def service(name: str, user: str, **more) -> dict:
        return {"image": image(name), "user": user, "networks": ["backend-network"], "stop_grace_period": "1s", **more}

    def mounts(**files: str) -> list[str]:
        return [f"{directory}/{source}:{target}:ro" for source, target in files.items()]

    hostile = f"{directory}/hostile:/hostile:ro"
    postgres = {"POSTGRES_USER": "campaign_user", "POSTGRES_DB": "campaign_db", "POSTGRES_PASSWORD_FILE": "/run/secrets/postgres_password"}
    postgres["POSTGRES_INITDB_ARGS"] = "--no-sync --locale-provider=builtin --builtin-locale=C.UTF-8 --encoding=UTF8"
    minio = {"MINIO_ROOT_USER_FILE": "/run/secrets/minio_root_user", "MINIO_ROOT_PASSWORD_FILE": "/run/secrets/minio_root_password"}
    return to_compose(
        {
            "services": {
                "postgres": service(
                    "postgis",
                    "999:999",
                    environment=postgres,
                    volumes=[hostile, f"{HERE}/postgres.sh:/postgres.sh:ro", *mounts(postgres_password="/run/secrets/postgres_password")],
                    tmpfs=["/var/run/postgresql:uid=999,gid=999,mode=3775"],
                ),
                "redis": service(
                    "redis",
                    "999:1000",
                    command=["redis-server", "/usr/local/etc/redis/redis.conf"],
                    volumes=mounts(redis_acl="/run/secrets/redis_acl", redis_conf="/usr/local/etc/redis/redis.conf"),
                ),
                "minio": service(
                    "minio",
                    "1000:1000",
                    command=["server", "/data"],
                    environment=minio,
                    volumes=[
                        hostile,
                        f"{HERE}/minio.sh:/minio.sh:ro",
                        *mounts(minio_root_user="/run/secrets/minio_root_user", minio_root_password="/run/secrets/minio_root_password"),
                    ],
                ),
                "logins": service(
                    "dev",
                    "10001:10001",
                    profiles=["job"],
                    command=["node", "logins.mjs"],
                    volumes=[hostile, f"{HERE}/logins.mjs:/app/logins.mjs:ro"],
                ),
            }
        }
    )


@dataclass
class Arrived:
    """What the containers say."""

    report: dict
    labels: dict[str, str]
    postgres: dict[str, str]
    minio: dict[str, str]
    logins: dict[str, dict[str, str]]


def told(output: str) -> dict[str, str]:
    """A complaint begins with the key of its value and the name of its step."""
    found: dict[str, str] = {}
    key = ""
    for line in output.splitlines():
        if line.startswith(("HOSTILE_", "JOINED ", "NAMED ")):
            key = line.split(" ")[0]
        found[key] = f"{found.get(key, '')}{line}\n"
    return found


@pytest.fixture(scope="session")
def arrived(staged, rendered) -> Arrived:
    hand_out(staged / "hostile", rendered)
    acl = dict.fromkeys(line for given in rendered.values() for line in given.secrets["redis"]["redis_acl"].splitlines() if line.startswith("user "))
    # Of the other logins the last one stays; Redis refuses a user that is there twice.
    acl = {line.split(" ")[1]: line for line in acl}
    joined = rendered["JOINED"]
    files = {
        "redis_acl": "".join(f"{line}\n" for line in acl.values()),
        "redis_conf": joined.configs["redis"]["/usr/local/etc/redis/redis.conf"],
        **joined.secrets["postgres"],
        **joined.secrets["minio"],
    }
    for name, text in files.items():
        (staged / name).write_bytes(text.encode())
        (staged / name).chmod(0o444)
    (staged / "servers.yml").write_text(servers(staged))
    (release,) = (staged / "stack/releases").iterdir()
    compose = ["docker", "compose", "--project-name", PROJECT, "--env-file", str(release / ".env"), "--project-directory", str(staged)]
    compose += [word for name in (release / "docker-compose.yml", staged / "servers.yml") for word in ("--file", str(name))]
    down = [*compose, "--profile", "job", "down", "--volumes", "--timeout", "1"]
    run(*down)
    try:
        run(*compose, "up", "--detach")
        container = run(*compose, "ps", "--all", "--quiet", "hostile").strip()
        assert run("docker", "wait", container).strip() == "0", run("docker", "logs", container)
        ready = "until pg_isready --quiet --host=postgres && psql -U campaign_user -d campaign_db -c 'SELECT 1'; do sleep 0.2; done"
        run(*compose, "exec", "-T", "postgres", "timeout", "60", "sh", "-c", ready)
        return Arrived(
            report=json.loads(run("docker", "logs", container)),
            labels=json.loads(run("docker", "inspect", "--format", "{{ json .Config.Labels }}", container)),
            postgres=told(run(*compose, "exec", "-T", "postgres", "sh", "/postgres.sh")),
            minio=told(run(*compose, "exec", "-T", "minio", "sh", "/minio.sh")),
            logins=json.loads(run(*compose, "run", "--rm", "-T", "logins")),
        )
    finally:
        subprocess.run(down, capture_output=True, check=False)
