# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong inputs: what is set, which variable the message names, and a word of its remedy.

A variable's name comes first, so that the table also says which variables it covers. `{canary}` stands for a secret that must not show.
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CANARY = "canary-4f1d"
ANY = [CANARY]
MAPPING = {"key": CANARY}

# As the test writes it into the inventory, encrypted with a password that the run is not given.
VAULTED = {"__ansible_vault": "right"}
BROKEN_VAULTED = {"__ansible_vault": "broken"}

NAME = "campaign.example.com"


def _key_pair() -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key, pem.decode()


def _certificate(key: ec.EllipticCurvePrivateKey, until: datetime.datetime) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, until - datetime.timedelta(days=400), until)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


_now = datetime.datetime.now(datetime.UTC)
_key, KEY = _key_pair()
_, OTHER_KEY = _key_pair()
CERTIFICATE = _certificate(_key, _now + datetime.timedelta(days=30))
EXPIRED = _certificate(_key, _now - datetime.timedelta(days=1))

# Values of a wrong type, by the type that the argument spec asks for.
WRONG_TYPES = {
    "str": [(ANY, "a list"), (True, "true or false"), (None, "empty")],
    "path": [("relative/" + CANARY, "Begin it with /"), (ANY, "absolute path"), ("/srv/../" + CANARY, "leave out every ..")],
    "int": [(CANARY, "whole number"), (ANY, "whole number"), (True, "whole number"), (None, "empty")],
    "bool": [(CANARY, "true or false"), (2, "true or false"), (ANY, "true or false")],
    "list": [(CANARY, "a list"), (MAPPING, "a list")],
    "dict": [(CANARY, "mapping"), (ANY, "mapping")],
}

# A variable that is not there at all.
MISSING = "canary-4f1d: missing"

# What is well-formed YAML of the right type, and still wrong: variables, the name that the message must hold, the remedy.
VALUES = [
    ({"stack_variant": "staging"}, "stack_variant", "local, prod"),
    ({"stack_verify_depth": "deep"}, "stack_verify_depth", "basic, full"),
    ({"stack_project": "Campaign"}, "stack_project", "a-z"),
    ({"stack_project": "-campaign"}, "stack_project", "a-z"),
    ({"stack_project": ""}, "stack_project", "a-z"),
    ({"stack_directory": "/"}, "stack_directory", "/opt/campaign"),
    ({"stack_directory": "/etc"}, "stack_directory", "/opt/campaign"),
    ({"stack_directory": "/opt/my campaign"}, "stack_directory", "letters"),
    ({"stack_directory": "/opt/$HOME"}, "stack_directory", "letters"),
    ({"stack_directory": "/opt/../etc"}, "stack_directory", "leave out every .."),
    ({"stack_app_source": "/srv/a:b"}, "stack_app_source", "colon"),
    ({"stack_app_source": "/nowhere/app", "stack_hot_reload": True}, "stack_app_source", "packages"),
    ({"stack_keep_releases": 0}, "stack_keep_releases", "1 to 100"),
    ({"stack_keep_releases": -3}, "stack_keep_releases", "1 to 100"),
    *[
        ({"stack_trusted_proxies": ["192.0.2.0/24", proxy]}, "stack_trusted_proxies[1]", "192.0.2.0/24")
        for proxy in ("192.0.2.7/24", "192.0.2.7", "2001:db8::/32", CANARY)
    ],
    ({"stack_trusted_proxies": [MAPPING]}, "stack_trusted_proxies[0]", "must be text"),
    ({"stack_trusted_proxies": ["0.0.0.0/0"]}, "stack_trusted_proxies", "own networks"),
    ({"stack_health_timeout": 0}, "stack_health_timeout", "1 to 3600"),
    ({"stack_health_timeout": 86400}, "stack_health_timeout", "1 to 3600"),
    ({"stack_variant": MISSING}, "stack_variant", "is missing. Set it to text, one of local, prod"),
    ({"stack_bind_address": "localhost"}, "stack_bind_address", "IPv4"),
    ({"stack_bind_address": "256.0.0.1"}, "stack_bind_address", "IPv4"),
    ({"stack_bind_address": "::1"}, "stack_bind_address", "IPv4"),
    ({"stack_bind_address": "10.0.0.1."}, "stack_bind_address", "IPv4"),
    ({"stack_postgres_user": "Robert'); DROP"}, "stack_postgres_user", "role name"),
    ({"stack_postgres_db": "campaign-db"}, "stack_postgres_db", "database name"),
    ({"stack_postgres_db": "d" * 64}, "stack_postgres_db", "at most 63"),
    ({"stack_postgres_db": "template1"}, "stack_postgres_db", "no template's"),
    ({"stack_s3_bucket": "ab"}, "stack_s3_bucket", "3 to 63"),
    ({"stack_s3_bucket": "Assets"}, "stack_s3_bucket", "bucket name"),
    ({"stack_s3_region": "us east"}, "stack_s3_region", "us-east-1"),
    ({"stack_jwt_expiration": "7 days"}, "stack_jwt_expiration", "7d"),
    ({"stack_jwt_expiration": "0d"}, "stack_jwt_expiration", "7d"),
    ({"stack_operator_user": "a b"}, "stack_operator_user", "letters"),
    ({"stack_log_level": "verbose"}, "stack_log_level", "debug"),
    ({"stack_scheduler_tick_seconds": 0}, "stack_scheduler_tick_seconds", "1 to 3600"),
    ({"stack_scheduler_tick_seconds": 3601}, "stack_scheduler_tick_seconds", "1 to 3600"),
    ({"stack_generate_secrets": True, "stack_variant": "prod"}, "stack_generate_secrets", "local only"),
    ({"stack_generate_secrets": True}, "stack_generated_secrets_file", "keeps what was generated"),
    ({"stack_hot_reload": True, "stack_variant": "prod"}, "stack_hot_reload", "local only"),
    ({"stack_env_local": {"LOG_LEVEL": "info"}, "stack_variant": "prod"}, "stack_env_local", "local only"),
    ({"stack_hot_reload": "flase"}, "stack_hot_reload", "true or false"),
    ({"stack_keep_releases": "three"}, "stack_keep_releases", "a whole number"),
    # External services.
    *[({f"stack_{name}_external": {"host": "db.example.com", "hosst": CANARY}}, f"stack_{name}_external.hosst", "host") for name in ("postgres", "redis")],
    ({"stack_postgres_external": {"port": 5432}}, "stack_postgres_external.host", "missing"),
    ({"stack_postgres_external": {"host": f"me:{CANARY}@db.example.com"}}, "stack_postgres_external: host", "a host name or an address"),
    ({"stack_postgres_external": {"host": "db.example.com", "tls": "prefer"}}, "stack_postgres_external.tls", "verify-full, require, disable"),
    ({"stack_postgres_external": {"host": "db.example.com", "port": 0}}, "stack_postgres_external: port", "1 to 65535"),
    ({"stack_postgres_external": {"host": "db.example.com", "ca": CANARY}}, "stack_postgres_external: ca", "PEM"),
    ({"stack_redis_external": {"host": "localhost"}}, "stack_redis_external: host", "outside the stack"),
    ({"stack_redis_external": {"host": "cache.example.com", "tls": "flase"}}, "stack_redis_external.tls", "true or false"),
    ({"stack_s3_external": {"path_style": True}}, "stack_s3_external.endpoint", "missing"),
    ({"stack_s3_external": {"endpoint": f"https://me:{CANARY}@s3.example.com"}}, "stack_s3_external: endpoint", "without credentials"),
    ({"stack_s3_external": {"endpoint": "https://s3.example.com:65536"}}, "stack_s3_external: endpoint", "with :PORT"),
    ({"stack_redis_external": {"host": "cache.example.com", "ca": CERTIFICATE.replace("\n", " ")}}, "stack_redis_external: ca", "each line on its own"),
    ({"stack_redis_external": {"host": "cache.example.com", "ca": CERTIFICATE.strip() + CERTIFICATE}}, "stack_redis_external: ca", "each line on its own"),
    ({"images_registry": "mirror.example.com:0/"}, "images_registry", "a mirror of Docker Hub"),
    # What would have no effect.
    ({"images_bundle": "/srv/bundle.tar"}, "images_bundle", "with images_source load only"),
    ({"docker_host_repository_url": "https://download.example.com/linux/debian"}, "docker_host_repository_url", "with docker_host_source docker only"),
    ({"stack_rollback_to": "0123456789ab"}, "stack_rollback_to", "run playbooks/rollback.yml"),
    ({"stack_s3_external": {"endpoint": "https://s3.example.com", "bucket": CANARY}}, "stack_s3_external.bucket", "Known are"),
    # AWS, by halves and otherwise.
    ({"stack_aws_secret_id": "campaign/prod"}, "stack_aws_region", "is missing"),
    ({"stack_aws_region": "eu-central-1"}, "stack_aws_region", "Set stack_aws_secret_id or stack_aws_runtime_secret_ids"),
    ({"stack_aws_runtime_secret_ids": {"api": "campaign/api"}}, "stack_aws_region", "is missing"),
    ({"stack_aws_endpoint_url": "http://192.0.2.1:5000"}, "stack_aws_endpoint_url", "Set stack_aws_runtime_secret_ids"),
    ({"stack_aws_runtime_secret_ids": {"apl": CANARY}, "stack_aws_region": "eu-central-1"}, "stack_aws_runtime_secret_ids: apl", "Did you mean api?"),
    ({"stack_aws_runtime_secret_ids": {"api": "a b"}, "stack_aws_region": "eu-central-1"}, "stack_aws_runtime_secret_ids: api", "the name or ARN"),
    ({"stack_aws_runtime_secret_ids": {"api": "campaign/api"}, "stack_aws_region": "Frankfurt"}, "stack_aws_region", "eu-central-1"),
    (
        {"stack_aws_runtime_secret_ids": {"api": "a"}, "stack_aws_region": "eu-central-1", "stack_aws_endpoint_url": CANARY},
        "stack_aws_endpoint_url",
        "an address such as",
    ),
    # TLS.
    ({"stack_tls_certificate": CANARY, "stack_server_name": NAME, "with_secrets": {"tls_private_key": KEY}}, "stack_tls_certificate", "in PEM"),
    ({"stack_tls_certificate": CERTIFICATE, "stack_server_name": NAME}, "stack_secrets.tls_private_key", "Give both, or neither"),
    ({"with_secrets": {"tls_private_key": KEY}}, "stack_tls_certificate", "Give both, or neither"),
    ({"stack_tls_certificate": CERTIFICATE, "with_secrets": {"tls_private_key": KEY}}, "stack_server_name", "the DNS name that it is made out to"),
    (
        {"stack_tls_certificate": CERTIFICATE, "stack_server_name": "https://" + NAME, "with_secrets": {"tls_private_key": KEY}},
        "stack_server_name",
        "without scheme",
    ),
    (
        {"stack_tls_certificate": CERTIFICATE, "stack_server_name": "elsewhere.example.com", "with_secrets": {"tls_private_key": KEY}},
        "stack_server_name",
        "Correct one of the two",
    ),
    (
        {"stack_tls_certificate": CERTIFICATE, "stack_server_name": NAME, "with_secrets": {"tls_private_key": OTHER_KEY}},
        "stack_secrets.tls_private_key",
        "Give the pair",
    ),
    (
        {"stack_tls_certificate": CERTIFICATE + KEY, "stack_server_name": NAME, "with_secrets": {"tls_private_key": KEY}},
        "stack_tls_certificate",
        "Move the key",
    ),
    ({"stack_tls_certificate": EXPIRED, "stack_server_name": NAME, "with_secrets": {"tls_private_key": KEY}}, "stack_tls_certificate", "Give a renewed one"),
    # Expressions that cannot be evaluated.
    ({"stack_project": "{{ nowhere_defined }}"}, "stack_project", "nowhere_defined"),
    ({"stack_frontend_port": "{{ 'x' | no_such_filter }}"}, "stack_frontend_port", "valid Jinja expression"),
    ({"stack_secrets": {"jwt_secret": "{{ vault_nowhere }}"}}, "stack_secrets", "vault_nowhere"),
    ({"stack_secrets": {"jwt_secret": CANARY + "{{ brace"}}, "stack_secrets", "!unsafe"),
    ({"stack_secrets": "{{ '" + CANARY + "{' | from_json }}"}, "stack_secrets", "Correct the expression"),
    # What was encrypted with a password that is not the one given, or in part only.
    ({"stack_secrets": {"jwt_secret": VAULTED}}, "stack_secrets", "--vault-password-file"),
    ({"stack_project": VAULTED}, "stack_project", "--vault-password-file"),
    ({"stack_secrets": {"jwt_secret": BROKEN_VAULTED}}, "stack_secrets", "vault"),
    ({"images_registry_password": VAULTED, "images_registry_username": "me"}, "images_registry_password", "--vault-password-file"),
    # What brings moments back.
    ({"stack_point_in_time": True, "stack_services": {"wal": None}}, "stack_services.wal", "stack_point_in_time: false"),
    # Misspelt names.
    ({"stack_frontend_prot": 80}, "stack_frontend_prot", "stack_frontend_port"),
    ({"stack_secret": {"jwt_secret": CANARY}}, "stack_secret", "stack_secrets"),
    ({"stack_varaint": "prod"}, "stack_varaint", "stack_variant"),
    ({"stack_secretes": {"jwt_secret": CANARY}}, "stack_secretes", "stack_secrets"),
    ({"stack_sevices": {}}, "stack_sevices", "stack_services"),
    ({"stack_postgres_extrenal": {"host": CANARY}}, "stack_postgres_extrenal", "stack_postgres_external"),
    ({"images_sorce": "pull"}, "images_sorce", "images_source"),
    ({"images_registri": CANARY}, "images_registri", "images_registry"),
    ({"docker_host_min_memory": 1}, "docker_host_min_memory", "docker_host_min_memory_mb"),
    # The images.
    ({"images_source": "download"}, "images_source", "auto, pull, build"),
    ({"images_prefix": "Campaign/"}, "images_prefix", "campaign/"),
    ({"images_registry": "mirror.example.com"}, "images_registry", "slash"),
    ({"images_registry_host": "registry.example.com/team"}, "images_registry_host", "without a path"),
    ({"images_registry": "https://mirror.example.com/"}, "images_registry", "mirror.example.com/"),
    ({"images_upstream": {}}, "images_upstream", "Name your builds"),
    ({"images_upstream": {"postgress": "a:1"}}, "images_upstream: postgress", "postgis"),
    ({"images_upstream": {"redis": "no reference " + CANARY}}, "images_upstream: redis", "image reference"),
    ({"images_revision": "a b"}, "images_revision", "1 to 64"),
    ({"images_lock": {"docker.io/library/redis:8": "sha256:1234"}}, "images_lock", "64 hexadecimal"),
    ({"images_lock": {"docker.io/library/redis:8": ANY}}, "images_lock: docker.io/library/redis:8", "Put it in quotes"),
    ({"images_lock_required": True}, "images_lock", "lock_images"),
    ({"images_source": "load"}, "images_bundle", "Name the archive"),
    ({"images_registry_username": "me"}, "images_registry_password", "both or neither"),
    ({"images_registry_password": CANARY}, "images_registry_username", "both or neither"),
    ({"images_registry_username": "me", "images_registry_password": CANARY}, "images_registry", "Name the registry"),
    ({"images_files": "/nowhere"}, "images_files", "this collection"),
    ({"images_debian_mirror": "debian.example.com"}, "images_debian_mirror", "https://"),
    ({"images_state_directory": "/var"}, "images_state_directory", "/var/lib/campaign-images"),
    ({"images_probe_timeout": 0}, "images_probe_timeout", "1 to 3600"),
    # The Docker host.
    ({"docker_host_source": "snap"}, "docker_host_source", "distribution, docker"),
    ({"docker_host_source": "docker"}, "docker_host_repository_url", "apt repository"),
    ({"docker_host_source": "docker", "docker_host_repository_url": "https://example.com"}, "docker_host_repository_key_url", "signing key"),
    ({"docker_host_repository_url": "example.com"}, "docker_host_repository_url", "https://"),
    ({"docker_host_repository_key_url": "file"}, "docker_host_repository_key_url", "https://"),
    ({"docker_host_min_memory_mb": -1}, "docker_host_min_memory_mb", "0 or more"),
    ({"docker_host_min_disk_mb": -1}, "docker_host_min_disk_mb", "0 or more"),
    ({"docker_host_log_max_size": "10 MB"}, "docker_host_log_max_size", "10m"),
    ({"docker_host_log_max_file": 0}, "docker_host_log_max_file", "1 to 1000"),
    *[
        ({"docker_host_firewall_allowed_sources": ["192.0.2.0/24", source]}, "docker_host_firewall_allowed_sources[1]", "192.0.2.0/24")
        for source in ("192.0.2.7/24", "192.0.2.7", "2001:db8::/32", "192.0.2.0/33", CANARY)
    ],
    ({"docker_host_firewall_allowed_sources": [MAPPING]}, "docker_host_firewall_allowed_sources[0]", "must be text"),
]

# Entries of stack_services: what the message names, the remedy.
_MAILER = {"image": "registry.example.com/mailer:1", "user": "10005:10005"}
_PORT = {"minimum": 1, "maximum": 65535, "hint": "a TCP port, 1 to 65535"}


def _mailer(body: dict | None = None, **keys: object) -> dict:
    """Return a new service, wrong in what is given and right in all else."""
    return {"mailer": {"base": {"services": {"mailer": {**_MAILER, **(body or {})}}}, **keys}}


SERVICES = [
    (CANARY, "stack_services", "a mapping"),
    (ANY, "stack_services", "a mapping"),
    ("{{ nowhere_defined }}", "stack_services", "nowhere_defined"),
    ({"mailer": ANY}, "stack_services.mailer", "a mapping, or empty to take the service out"),
    ({"mailer": CANARY}, "stack_services.mailer", "a mapping, or empty to take the service out"),
    ({"Mailer": _mailer()["mailer"]}, "stack_services", "begins with a letter"),
    # What the role images says of those of an entry.
    (_mailer({"image": "{{ image.schedular }}"}), "stack_services.mailer: the image of the container mailer: schedular", "Did you mean scheduler?"),
    (_mailer({"image": "{{ image.mailer }}"}, images={"mailer": {"context": "mailer"}}), "stack_services.mailer.images.mailer.context", "an absolute path"),
    (
        _mailer({"image": "{{ image.mailer }}"}, images={"mailer": {"upstream": "no reference"}}),
        "stack_services.mailer.images.mailer: upstream",
        "an image reference",
    ),
    (_mailer({"image": "{{ image.node }}"}, images={"node": {"upstream": "a:1"}}), "stack_services.mailer.images.node", "replaces: true"),
    # Names that are not known.
    (_mailer(setings={}), "stack_services.mailer.setings", "Did you mean settings?"),
    (_mailer({"enviroment": {"A": CANARY}}), "stack_services.mailer.base.services.mailer.enviroment", "Did you mean environment?"),
    (_mailer({"build": CANARY}), "stack_services.mailer.base.services.mailer.build", "Known are"),
    ({"api": {"base": {"services": {"api": {"enviroment": {"A": CANARY}}}}}}, "stack_services.api.base.services.api.enviroment", "environment"),
    (_mailer(dev={"version": CANARY}), "stack_services.mailer.dev.version", "Known are networks, services, volumes"),
    ({"mailer": {"base": {"services": {"mailer": _MAILER}, "secrets": MAPPING}}}, "stack_services.mailer.base.secrets", "is not known"),
    (_mailer(images={"mailer": {"contxt": CANARY}}), "stack_services.mailer.images.mailer.contxt", "Did you mean context?"),
    (_mailer(jobs={"mailer": {"restore_logins": True}}), "stack_services.mailer.jobs.mailer.restore_logins", "Did you mean restores_logins?"),
    (_mailer(checks={"alive": {"kind": "http", "port": 1, "statsu": 200}}), "stack_services.mailer.checks.alive.statsu", "Did you mean status?"),
    # Taking out and replacing.
    ({"schedular": None}, "stack_services.schedular", "Did you mean scheduler?"),
    ({"redis": None}, "stack_services.scheduler.needs.scheduler.redis", "Set stack_redis_external, or take scheduler out too"),
    ({"postgres": None}, "stack_services.api.needs.api-migrate.postgres", "Set stack_postgres_external, or take api out too"),
    (_mailer(replaced_by=ANY), "stack_services.mailer.replaced_by", "the name of a variable"),
    (_mailer(replaced_by="stack_redis_exernal"), "stack_services.mailer.replaced_by", "Did you mean stack_redis_external?"),
    # What belongs to another entry.
    ({"mailer": {"base": {"services": {"redis": _MAILER}}}}, "stack_services.mailer: the container redis", "belongs to the entry redis"),
    (_mailer(settings={"API_PORT": {**_PORT, "default": 1}}), "stack_services.mailer.settings.API_PORT", "is a setting of frontend already"),
    (
        _mailer({"ports": ["127.0.0.1:${MAILER_PORT:?}:80"]}, settings={"MAILER_PORT": {**_PORT, "default": 8080}}),
        "MAILER_PORT",
        "are the same port. Give each its own",
    ),
    (_mailer({"ports": ["127.0.0.1:3000:80"]}), "port 3000 of mailer", "are the same port. Give each its own"),
    (_mailer({"ports": ["28025:80"]}), "stack_services.mailer: the container mailer publishes 28025:80", "Say on which: 127.0.0.1:28025:80"),
    # Logins.
    (_mailer(logins={"postgre": {"mailer": {}}}), "stack_services.mailer.logins.postgre", "Known are postgres, redis, s3"),
    (_mailer(logins={"redis": {"mailer": {}}}), "stack_services.mailer.logins.redis.mailer.acl", "Say what the login may do"),
    (_mailer(logins={"s3": {"mailer": {}}}), "stack_services.mailer.logins.s3.mailer.policy", "Say what the login may do"),
    (_mailer(logins={"s3": {"mailer": {"policy": MAPPING}}}), "stack_services.mailer.logins.s3.mailer.policy", "an IAM policy"),
    (_mailer(needs={"mailer": {"mysql": "mailer"}}), "stack_services.mailer.needs.mailer.mysql", "Known are postgres, redis, s3"),
    (_mailer(needs={"mailer": {"redis": "schedular"}}), "stack_services.mailer.needs.mailer.redis", "Did you mean scheduler?"),
    (_mailer(needs={"mailler": {"redis": "scheduler"}}), "stack_services.mailer.needs.mailler", "Did you mean mailer?"),
    # Settings.
    (_mailer(settings={"MAILER_FROM": {"hint": "an address", "default": CANARY}}), "stack_services.mailer.settings.MAILER_FROM", "needs a rule"),
    (_mailer(settings={"MAILER_FROM": {"pattern": ".*", "default": CANARY}}), "stack_services.mailer.settings.MAILER_FROM.hint", "is missing"),
    (_mailer(settings={"MAILER_FROM": {"pattern": "(", "hint": "x"}}), "stack_services.mailer.settings.MAILER_FROM.pattern", "regular expression"),
    (_mailer(settings={"MAILER_PORT": {**_PORT, "default": CANARY}}), "stack_services.mailer.settings: MAILER_PORT", "must be a TCP port, 1 to 65535"),
    (_mailer(settings={"MAILER_PORT": _PORT}), "MAILER_PORT", "Set it in .env.local, or give it a default in stack_services.mailer.settings.MAILER_PORT"),
    (_mailer(settings={"MAILER_PORT": {**_PORT, "default": "{{ nowhere }}"}}), "stack_services.mailer.settings.MAILER_PORT.default", "nowhere"),
    # Files.
    (_mailer(secrets={"mailer": ["a b"]}), "stack_services.mailer.secrets.mailer", "letters, digits"),
    (_mailer(secrets={"mailler": ["jwt_secret"]}), "stack_services.mailer.secrets.mailler", "Did you mean mailer?"),
    (_mailer({"user": "root"}, secrets={"mailer": ["jwt_secret"]}), "stack_services.mailer: the container mailer", "numeric user"),
    (_mailer(secrets={"mailer": {"mailer_key": {"rotated": "no"}}}), "stack_services.mailer.secrets.mailer.mailer_key.rotated", "true or false"),
    (
        _mailer(secrets={"mailer": {"settings": {"rotated": False, "content": "{{ secret.mailer_key }}"}}}),
        "stack_services.mailer.secrets.mailer.settings.rotated",
        "NAME: {rotated: false}",
    ),
    (_mailer(secrets={"mailer": ["mailer_token"]}), "stack_secrets.mailer_token", "is missing"),
    (_mailer(configs={"mailer": {"etc/mailer.json": {"content": CANARY}}}), "stack_services.mailer.configs.mailer", "an absolute path in the container"),
    (
        _mailer(configs={"mailer": {"/etc/a": {"content": CANARY, "template": "a"}}}),
        "stack_services.mailer.configs.mailer./etc/a",
        "either template or content",
    ),
    (_mailer(configs={"mailer": {"/etc/a": {"template": "/nowhere/a.j2"}}}), "stack_services.mailer", "/nowhere/a.j2 cannot be read"),
    # What services say of each other.
    (_mailer({"depends_on": ["postgress"]}), "stack_services.mailer: the container mailer depends on postgress", "Did you mean postgres?"),
    (_mailer({"image": None}), "stack_services.mailer: the container mailer", "has no image. Give it one"),
    ({"mailer": {"needs": {}}}, "stack_services.mailer.base.services", "at least one container"),
    ({"mailer": {"base": CANARY}}, "stack_services.mailer.base", "a mapping"),
    (
        {"redis": {"base": {"services": {"redis": {"mem_limit": "256m", "command": ["redis-server", "--maxmemory", "256mb"]}}}}},
        "stack_services.redis: the container redis has --maxmemory in its command",
        "raise deploy.resources.limits.memory",
    ),
    (_mailer({"deploy": {"replicas": 2}}), "stack_services.mailer: the container mailer has deploy.replicas", "write an entry for each"),
    (
        {"redis": {"base": {"services": {"redis": {"deploy": {"update_config": {"order": "start-first"}}}}}}},
        "stack_services.redis: the container redis has the order start-first",
        "Take that out",
    ),
    (_mailer(jobs={"mailer-migrate": {}}), "stack_services.mailer.jobs.mailer-migrate", "the entry has no such container"),
    # Checks.
    (_mailer(checks={"alive": {"kind": "ping"}}), "stack_services.mailer.checks.alive.kind", "http, probe, tcp, command"),
    (_mailer(checks={"alive": {"kind": "http"}}), "stack_services.mailer.checks.alive.port", "needs it"),
    (_mailer(checks={"alive": {"kind": "tcp", "port": 1, "service": "mailler"}}), "the check alive asks the service mailler", "Did you mean mailer?"),
    # Expressions and texts.
    (_mailer({"environment": {"A": "{{ nowhere_defined }}"}}), "stack_services.mailer", "nowhere_defined, which is not defined"),
    (_mailer({"environment": {"A": "{{ setting.MAILER_PROT }}"}}), "stack_services.mailer", "MAILER_PROT, which is not defined"),
    (_mailer({"environment": {"A": "{{ secret.jwt_secret }}"}}), "stack_services.mailer", "secret, which is not defined"),
    (_mailer({"environment": {"A": CANARY + "{{ x"}}), "stack_services.mailer", "!unsafe"),
    (_mailer({"environment": {"A": "{{ '" + CANARY + "{' | from_json }}"}}), "stack_services.mailer", "Correct the expression"),
    (_mailer(when="{{ nowhere_defined }}"), "stack_services.mailer.when", "nowhere_defined, which is not defined"),
    (_mailer(checks={"alive": {"kind": "http", "port": "{{ nowhere }}"}}), "stack_services.mailer", "nowhere, which is not defined"),
    (_mailer({"environment": {"A": CANARY + "\0"}}), "stack_services: services.mailer.environment.A", "a NUL byte"),
    (_mailer({"command": ["a", CANARY + "\0"]}), "stack_services: services.mailer.command.1", "a NUL byte"),
]

# What is unusual, and right.
TAKEN = [
    {"stack_hot_reload": "false"},
    {"stack_hot_reload": "no", "stack_generate_secrets": 0},
    {"stack_keep_releases": "5", "stack_health_timeout": "60"},
    {"stack_project": 42},
    {"stack_no_such_thing_at_all": CANARY, "stack_owner": CANARY},
    {"stack_redis_external": {"host": "cache.example.com", "tls": "false", "port": "6380"}},
    {"stack_services": {}},
    {"stack_services": _mailer()},
    {"stack_services": {"frontend": {"checks": {"page": {"contains": "another page"}, "proxied api": None}}}},
    {"stack_services": {"frontend": {"settings": {"API_PORT": {"maximum": 40000}}, "base": {"services": {"frontend": {"labels": ["com.example.team=a"]}}}}}},
    {"stack_services": {"redis": None}, "stack_redis_external": {"host": "cache.example.com"}},
    # Their secrets may stay in the vault.
    {"stack_services": dict.fromkeys(["scheduler", "rules-engine"])},
    {"images_revision": 2, "images_lock_required": "no", "images_probe_timeout": "5"},
    {"docker_host_log_max_file": "5", "docker_host_owner": CANARY, "images_no_such_thing_at_all": CANARY},
    {"stack_services": _mailer({"environment": {"A": "a\tb", "B": "{{ variant }}"}}, when="{{ variant == 'local' }}")},
]

# What site.yml computes and hands to the roles, by itself: for those who write a playbook of their own, and for bundle.yml.
ROLES = [
    ("images", {"images_required": MISSING}, "images_required", "missing"),
    ("images", {"images_required": CANARY}, "images_required", "a list"),
    ("images", {"images_required": ["redis", "postgress"]}, "images_required", "postgis"),
    ("images", {"images_required": [MAPPING]}, "images_required[0]", "must be text"),
    ("images", {"images_definitions": ANY}, "images_definitions", "a mapping"),
    ("images", {"images_places": ANY}, "images_places", "a mapping"),
    ("images", {"images_definitions": {"mailer": CANARY}}, "images_definitions.mailer", "a mapping"),
    ("images", {"images_definitions": {"Mailer": {"upstream": "a:1"}}}, "images_definitions.Mailer", "a-z, 0-9"),
    ("images", {"images_definitions": {"mailer": {"upstrem": CANARY, "upstream": "a:1"}}}, "images_definitions.mailer.upstrem", "Did you mean upstream?"),
    ("images", {"images_definitions": {"mailer": {"target": CANARY}}}, "images_definitions.mailer", "neither upstream nor context"),
    ("images", {"images_definitions": {"mailer": {"upstream": ANY}}}, "images_definitions.mailer.upstream", "must be text"),
    ("images", {"images_definitions": {"mailer": {"upstream": "no reference " + CANARY}}}, "images_definitions.mailer: upstream", "an image reference"),
    ("images", {"images_definitions": {"mailer": {"context": "mailer"}}}, "images_definitions.mailer.context", "an absolute path"),
    ("images", {"images_definitions": {"mailer": {"context": "/nowhere"}}}, "images_definitions.mailer.context", "is not a directory on this machine"),
    ("images", {"images_definitions": {"mailer": {"upstream": "a:1", "args": ANY}}}, "images_definitions.mailer.args", "a mapping"),
    ("images", {"images_definitions": {"mailer": {"upstream": "a:1", "parents": ANY}}}, "images_definitions.mailer.parents", "a mapping"),
    (
        "images",
        {"images_definitions": {"mailer": {"upstream": "a:1", "parents": {"NODE_IMAGE": "nodde"}}}},
        "images_definitions.mailer.parents.NODE_IMAGE",
        "Did you mean node?",
    ),
    ("images", {"images_app_source": "relative/" + CANARY}, "images_app_source", "Begin it with /"),
    ("images", {"images_app_source": "/nowhere"}, "images_app_source", "is not a directory on this machine"),
    ("images", {"images_defintions": MAPPING}, "images_defintions", "images_definitions"),
    ("docker_host", {"docker_host_prots": [MAPPING]}, "docker_host_prots", "docker_host_ports"),
    ("docker_host", {"docker_host_ports": CANARY}, "docker_host_ports", "a list"),
    ("docker_host", {"docker_host_ports": [{"port": 80}]}, "docker_host_ports[0].address", "missing"),
    ("docker_host", {"docker_host_ports": [{"address": "::1", "port": 80}]}, "docker_host_ports: address", "IPv4"),
    ("docker_host", {"docker_host_ports": [{"address": "127.0.0.1", "port": 0}]}, "docker_host_ports: port", "1 to 65535"),
    ("docker_host", {"docker_host_ports": [{"address": "127.0.0.1", "port": 80, "prot": CANARY}]}, "docker_host_ports[0].prot", "port"),
    ("docker_host", {"docker_host_project": "Campaign"}, "docker_host_project", "a-z"),
    ("backup", {"backup_repository": MISSING}, "backup_repository", "missing"),
    ("backup", {"backup_restore_snapshot": CANARY}, "backup_restore_snapshot", "is not a variable of the role backup. Known are backup_restore_confirm"),
    ("backup", {"backup_set": CANARY}, "backup_set", "is not a variable of the role backup. Known are"),
    ("backup", {"backup_repository": "relative/" + CANARY}, "backup_repository", "an absolute path, sftp:USER@HOST:/PATH, with a port"),
    ("backup", {"backup_repository": "sftp:keeper@host.example.com:2222:/" + CANARY}, "backup_repository", "sftp://USER@HOST:PORT//PATH"),
    ("backup", {"backup_repository": "sftp:keeper@[2001:db8::1]:/" + CANARY}, "backup_repository", "an address of IPv6 sftp://USER@HOST:PORT//PATH"),
    ("backup", {"backup_repository": "sftp:keeper@host.example.com:/my " + CANARY}, "backup_repository", "without credentials or blanks"),
    ("backup", {"backup_repository": "sftp://keeper:" + CANARY + "@host.example.com//sets"}, "backup_repository", "without credentials"),
    ("backup", {"backup_repository": "s3:https://user:" + CANARY + "@host/bucket"}, "backup_repository", "without credentials"),
    ("backup", {"backup_repository": "s3:https://s3.example.com/bucket"}, "backup_repository", "needs backup_s3_access_key and backup_s3_secret_key"),
    ("backup", {"backup_repository": "sftp:keeper@host.example.com:/sets"}, "backup_repository", "needs backup_ssh_key and backup_ssh_known_hosts"),
    ("backup", {"backup_directory": "/opt/stack", "backup_repository": "/opt/stack/sets"}, "backup_repository", "Name a place elsewhere"),
    ("backup", {"backup_password": "short"}, "backup_password", "16 to 512 characters"),
    ("backup", {"backup_times": ["2:30"]}, "backup_times", "a time such as 02:30 or Sun 04:00"),
    ("backup", {"backup_drill_times": ["Sonntag 04:00"]}, "backup_drill_times", "a time such as 02:30 or Sun 04:00"),
    ("backup", {"backup_late_hours": 0}, "backup_late_hours", "1 to 1000"),
    ("backup", {"backup_drill_days": 1001}, "backup_drill_days", "1 to 1000"),
    ("backup", {"backup_memory": "much"}, "backup_memory", "512m or 1g"),
    ("backup", {"backup_cpus": "one"}, "backup_cpus", "a number of CPUs"),
    ("backup", {"backup_lock_wait": -1}, "backup_lock_wait", "0 to 86400"),
    ("backup", {"backup_health_timeout": 0}, "backup_health_timeout", "1 to 3600"),
    ("backup", {"backup_point_in_time": CANARY}, "backup_point_in_time", "true or false"),
    ("backup", {"backup_point_in_time": True, "backup_times": []}, "backup_point_in_time", "needs backup_times"),
    ("backup", {"backup_point_in_time_days": 0}, "backup_point_in_time_days", "1 to 366"),
    ("backup", {"backup_restore_moment": "2026-11-27T05:00:00"}, "backup_restore_moment", "with its time zone"),
    ("backup", {"backup_restore_moment": "yesterday " + CANARY}, "backup_restore_moment", "with its time zone"),
    ("backup", {"backup_restore_moment": "latest", "backup_restore_set": "20261126T023000Z-1f3a"}, "backup_restore_moment", "takes the set that fits it"),
    ("backup", {"backup_restore_moment": "latest", "backup_purpose": "move_in"}, "backup_restore_moment", "this stack's own repository"),
    ("backup", {"backup_restore_set": "a set"}, "backup_restore_set", "latest, the name of a set"),
    ("backup", {"backup_scheduler": "at"}, "backup_scheduler", "auto, systemd, cron, none"),
    ("backup", {"backup_old_volumes": "burn"}, "backup_old_volumes", "keep, remove"),
    ("backup", {"backup_keep": {"dayly": 7}}, "backup_keep", "restic does not have"),
    ("backup", {"backup_keep": {"daily": "many"}}, "backup_keep", "whole numbers"),
    ("backup", {"backup_password": MISSING}, "backup_password", "missing"),
    ("backup", {"backup_purpose": "burn"}, "backup_purpose", "backup, export, move_in"),
    ("backup", {"backup_purpose": "export"}, "backup_export_directory", "Say where on the host"),
    ("backup", {"backup_purpose": "export", "backup_export_directory": ""}, "backup_export_directory", "an absolute path"),
    ("backup", {"backup_purpose": "export", "backup_export_directory": "exports/" + CANARY}, "backup_export_directory", "Begin it with /"),
    ("backup", {"backup_purpose": "export", "backup_export_directory": "/srv/../etc"}, "backup_export_directory", "leave out every .."),
    ("backup", {"backup_export_passwords": CANARY}, "backup_export_passwords", "true or false"),
    ("backup", {"backup_restore_from_project": "Other Project"}, "backup_restore_from_project", "docker compose ls --all"),
    ("backup", {"backup_restore_from_export": "relative/" + CANARY}, "backup_restore_from_export", "Begin it with /"),
    ("backup", {"backup_restore_from_project": "a", "backup_restore_from_export": "/b"}, "backup_restore_from_project", "from one of them"),
    ("backup", {"backup_restore_from_volumes": {"mysql": "x"}}, "backup_restore_from_volumes", "It knows postgres, redis and minio"),
    ("backup", {"backup_restore_from_volumes": {"redis": 7}}, "backup_restore_from_volumes", "must have names of volumes"),
    ("backup", {"backup_tmies": ["02:30"]}, "backup_tmies", "backup_times"),
    ("upgrade_postgres", {"upgrade_postgres_directory": MISSING}, "upgrade_postgres_directory", "missing"),
    ("upgrade_postgres", {"upgrade_postgres_image": MISSING}, "upgrade_postgres_image", "missing"),
    ("upgrade_postgres", {"upgrade_postgres_old_volumes": "burn"}, "upgrade_postgres_old_volumes", "keep, remove"),
    ("upgrade_postgres", {"upgrade_postgres_memory": "much"}, "upgrade_postgres_memory", "512m or 1g"),
    ("upgrade_postgres", {"upgrade_postgres_cpus": "two"}, "upgrade_postgres_cpus", "a number of CPUs"),
    ("upgrade_postgres", {"upgrade_postgres_lock_wait": -1}, "upgrade_postgres_lock_wait", "0 to 86400"),
    ("upgrade_postgres", {"upgrade_postgres_health_timeout": 0}, "upgrade_postgres_health_timeout", "1 to 3600"),
    ("upgrade_postgres", {"upgrade_postgres_memroy": "1g"}, "upgrade_postgres_memroy", "upgrade_postgres_memory"),
    ("bundle", {"bundle_images": MISSING}, "bundle_images", "missing"),
    ("bundle", {"bundle_images": {}}, "bundle_images", "empty"),
    ("bundle", {"bundle_images": ANY}, "bundle_images", "a mapping"),
    ("bundle", {"bundle_directory": "relative"}, "bundle_directory", "Begin it with /"),
    ("bundle", {"bundle_collection": "/nowhere"}, "bundle_collection", "a checkout"),
    ("bundle", {"bundle_collection": ANY}, "bundle_collection", "absolute path"),
    ("bundle", {"bundle_app_source": "/nowhere"}, "bundle_app_source", "has no package-lock.json"),
    ("bundle", {"bundle_app_source": "relative/" + CANARY}, "bundle_app_source", "Begin it with /"),
    ("bundle", {"bundle_python": "/nowhere/python"}, "bundle_python", "interpreter"),
    ("bundle", {"bundle_python": "python3"}, "bundle_python", "Begin it with /"),
    ("bundle", {"bundle_directroy": "/srv"}, "bundle_directroy", "bundle_directory"),
]

# Ports that can be published at a time: the pairs of a tournament, so that a host has three clashes and no name twice.
PORTS = ["FRONTEND_PORT", "HTTPS_PORT", "API_PORT", "MINIO_PORT", "MINIO_CONSOLE_PORT", "POSTGRES_PORT", "REDIS_PORT"]
WRONG_PORTS = {0: "1 to 65535", 65536: "1 to 65535", "80a": "a whole number"}

# Secrets: each by itself, so that the message must name it.
SECRETS = [
    "postgres_password",
    "postgres_api_password",
    "postgres_rules_engine_password",
    "postgres_scheduler_password",
    "redis_api_password",
    "redis_rules_engine_password",
    "redis_scheduler_password",
    "minio_root_user",
    "minio_root_password",
    "s3_access_key",
    "s3_secret_key",
    "jwt_secret",
    "operator_password",
    "generation_key",
]
NAMES = {"minio_root_user", "s3_access_key"}
# What is wrong with any of them: a value, a word of the remedy.
WRONG_SECRETS = [
    (None, "missing"),
    ("", "empty"),
    ([CANARY], "quotes"),
    (123456789012, "quotes"),
]
WITHOUT_NUL = [name for name in SECRETS if name not in {"s3_secret_key", *NAMES}]
SECRET_VALUES = [
    ({"s3_secret_key": CANARY + "\n" + CANARY}, "s3_secret_key", "one line"),
    ({"s3_access_key": CANARY + "\n" + CANARY}, "s3_access_key", "without blanks"),
    ({"s3_access_key": CANARY + "=" + CANARY}, "s3_access_key", "without blanks"),
    ({"minio_root_user": CANARY + ",x"}, "minio_root_user", "without blanks"),
    ({"s3_secret_key": CANARY * 20}, "s3_secret_key", "8 to 128"),
    ({"jwt_secert": CANARY}, "jwt_secert", "jwt_secret"),
    ({"postgres_password": CANARY * 1000}, "postgres_password", "characters"),
]

# Secrets that are well-formed and too weak for prod.
WEAK_SECRETS = [
    ({"jwt_secret": CANARY + "-too-short"}, "jwt_secret", "at least 32 characters"),
    ({"operator_password": CANARY}, "operator_password", "at least 16 characters"),
    ({"operator_password": CANARY + "-changeme"}, "operator_password", "init_secrets"),
    ({"redis_api_password": CANARY * 3}, "redis_api_password", "can be guessed"),
    ({"operator_password": "Password12345678"}, "operator_password", "can be guessed"),
    ({"s3_secret_key": "qwertyuiopasdfgh"}, "s3_secret_key", "can be guessed"),
    ({"postgres_password": "same-" + CANARY, "s3_secret_key": "same-" + CANARY}, "postgres_password and s3_secret_key", "Give each its own"),
]

# Contents of .env.local.
ENV_LOCAL = [
    ("LOG_LEVL=info", "LOG_LEVL", "LOG_LEVEL"),
    ("FRONTEND_PORT=http", "FRONTEND_PORT", "1 to 65535"),
    ("API_PORT=99999", "API_PORT", "1 to 65535"),
    ("API_PORT=08080", "API_PORT", "1 to 65535"),
    ("API_PORT=8080", "API_PORT", "Give each its own"),
    (f"POSTGRES_PASSWORD={CANARY}\nPOSTGRES_PASSWORD={CANARY}", "POSTGRES_PASSWORD", "second time"),
    (f"JWT_SECRET={CANARY}$x", "JWT_SECRET", "single quotes"),
    (f"JWT_SECRET='{CANARY}", "JWT_SECRET", "closing single quote"),
    (f'JWT_SECRET="{CANARY}', "JWT_SECRET", "double quote"),
    (f'JWT_SECRET="{CANARY}\\x"', "JWT_SECRET", "unknown escape"),
    (f"JWT_SECRET={CANARY} # mine", "JWT_SECRET", "single quotes"),
    (f"{CANARY}", "line 1", "NAME=value"),
    ("JWT_SECRET=short", "JWT_SECRET", "8 characters"),
    ("OPERATOR_PASSWORD=", "OPERATOR_PASSWORD", "8 characters"),
    (f"S3_ACCESS_KEY='{CANARY} x'", "S3_ACCESS_KEY", "without blanks"),
    (f"DATABASE_URL=postgres://me:{CANARY}@elsewhere:5432/campaign_db", "DATABASE_URL", "postgres:5432"),
    (f"DATABASE_URL=postgres://me:{CANARY}@postgres:5432/other", "DATABASE_URL", "the same"),
    (f"DATABASE_URL=postgres://me:{CANARY}/x@postgres:5432/campaign_db", "DATABASE_URL", "percent-encoded"),
    (f"REDIS_URL=redis://me:{CANARY}@elsewhere:6379", "REDIS_URL", "redis:6379"),
    ("S3_ENDPOINT=http://elsewhere:9000", "S3_ENDPOINT", "minio:9000"),
    ("NODE_ENV=staging", "NODE_ENV", "production"),
    ("VITE_API_URL=localhost", "VITE_API_URL", "http"),
    ("VITE_API_URL=http://localhost:99999", "VITE_API_URL", "http"),
    ("HTTPS_PORT=8443", "HTTPS_PORT", "with a certificate only"),
]
