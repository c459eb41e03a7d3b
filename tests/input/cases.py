# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong inputs: what is set, which variable the message names, and a word of its remedy.

A variable's name comes first, so that the table also says which variables it covers. `{canary}` stands for a secret that must not show.
"""

CANARY = "canary-4f1d"
ANY = [CANARY]
MAPPING = {"key": CANARY}

# Values of a wrong type, by the type that the argument spec asks for.
WRONG_TYPES = {
    "str": [(ANY, "a list"), (True, "true or false"), (None, "empty")],
    "path": [("relative/" + CANARY, "Begin it with /"), (ANY, "absolute path"), ("/srv/../" + CANARY, "without ..")],
    "int": [(CANARY, "whole number"), (ANY, "whole number"), (True, "whole number"), (None, "empty")],
    "bool": [("false", "JSON"), (CANARY, "true or false"), (1, "true or false")],
    "list": [(CANARY, "a list"), (MAPPING, "a list")],
    "dict": [(CANARY, "mapping"), (ANY, "mapping")],
}

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
    ({"stack_directory": "/opt/../etc"}, "stack_directory", "without .."),
    ({"stack_app_source": "/srv/a:b"}, "stack_app_source", "colon"),
    ({"stack_app_source": "/nowhere/app", "stack_hot_reload": True}, "stack_app_source", "packages"),
    ({"stack_keep_releases": 0}, "stack_keep_releases", "1 to 100"),
    ({"stack_keep_releases": -3}, "stack_keep_releases", "1 to 100"),
    ({"stack_health_timeout": 0}, "stack_health_timeout", "1 to 3600"),
    ({"stack_health_timeout": 86400}, "stack_health_timeout", "1 to 3600"),
    *[
        ({f"stack_{name}_port": port}, f"stack_{name}_port", "1 to 65535")
        for name in ("frontend", "api", "minio", "minio_console", "postgres", "redis")
        for port in (0, 65536, "08080")
    ],
    ({"stack_api_port": 8080}, "FRONTEND_PORT", "Give each its own"),
    ({"stack_minio_port": 9001}, "MINIO_CONSOLE_PORT", "Give each its own"),
    ({"stack_bind_address": "localhost"}, "stack_bind_address", "IPv4"),
    ({"stack_bind_address": "256.0.0.1"}, "stack_bind_address", "IPv4"),
    ({"stack_bind_address": "::1"}, "stack_bind_address", "IPv4"),
    ({"stack_bind_address": "10.0.0.1."}, "stack_bind_address", "IPv4"),
    ({"stack_postgres_user": "Robert'); DROP"}, "stack_postgres_user", "role name"),
    ({"stack_postgres_db": "campaign-db"}, "stack_postgres_db", "database name"),
    ({"stack_postgres_db": "d" * 64}, "stack_postgres_db", "at most 63"),
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
    # Expressions that cannot be evaluated.
    ({"stack_project": "{{ nowhere_defined }}"}, "stack_project", "nowhere_defined"),
    ({"stack_frontend_port": "{{ 'x' | no_such_filter }}"}, "stack_frontend_port", "valid Jinja expression"),
    ({"stack_secrets": {"jwt_secret": "{{ vault_nowhere }}"}}, "stack_secrets", "vault_nowhere"),
    ({"stack_secrets": {"jwt_secret": CANARY + "{{ brace"}}, "stack_secrets", "!unsafe"),
    ({"stack_secrets": "{{ '" + CANARY + "{' | from_json }}"}, "stack_secrets", "Mend the expression"),
    # Misspelt names.
    ({"stack_frontend_prot": 80}, "stack_frontend_prot", "stack_frontend_port"),
    ({"stack_secret": {"jwt_secret": CANARY}}, "stack_secret", "stack_secrets"),
    ({"stack_varaint": "prod"}, "stack_varaint", "stack_variant"),
    ({"stack_no_such_thing_at_all": CANARY}, "stack_no_such_thing_at_all", "role stack"),
    ({"images_sorce": "pull"}, "images_sorce", "images_source"),
    ({"images_registri": CANARY}, "images_registri", "images_registry"),
    ({"docker_host_min_memory": 1}, "docker_host_min_memory", "docker_host_min_memory_mb"),
    # The images.
    ({"images_source": "download"}, "images_source", "auto, pull, build"),
    ({"images_prefix": "Campaign/"}, "images_prefix", "campaign/"),
    ({"images_registry": "mirror.example.com"}, "images_registry", "slash"),
    ({"images_registry": "https://mirror.example.com/"}, "images_registry", "mirror.example.com/"),
    ({"images_upstream": {"postgress": "a:1"}}, "images_upstream: postgress", "postgis"),
    ({"images_upstream": {"redis": "no reference " + CANARY}}, "images_upstream: redis", "image reference"),
    ({"images_revision": "a b"}, "images_revision", "1 to 64"),
    ({"images_lock": {"docker.io/library/redis:8": "sha256:1234"}}, "images_lock", "64 hexadecimal"),
    ({"images_lock_required": True}, "images_lock", "lock_images"),
    ({"images_registry_username": "me"}, "images_registry_password", "both or neither"),
    ({"images_registry_password": CANARY}, "images_registry_username", "both or neither"),
    ({"images_registry_username": "me", "images_registry_password": CANARY}, "images_registry", "Name the registry"),
    ({"images_files": "/nowhere"}, "images_files", "this collection"),
    ({"images_debian_mirror": "debian.example.com"}, "images_debian_mirror", "https://"),
    ({"images_state_directory": "/var"}, "images_state_directory", "/var/lib/campaign-images"),
    ({"images_probe_timeout": 0}, "images_probe_timeout", "1 to 3600"),
    ({"images_required": ["redis", "postgress"]}, "images_required", "postgis"),
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
    ({"docker_host_images_state_directory": "/"}, "docker_host_images_state_directory", "letters"),
]

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
SECRET_VALUES = [
    *[({name: None}, name, "missing") for name in SECRETS],
    *[({name: ""}, name, "empty") for name in SECRETS],
    *[({name: CANARY + "\0" + CANARY}, name, "without") for name in SECRETS if name not in {"s3_secret_key", *NAMES}],
    *[({name: [CANARY]}, name, "quotes") for name in SECRETS],
    *[({name: 123456789012}, name, "quotes") for name in SECRETS],
    ({"s3_secret_key": CANARY + "\n" + CANARY}, "s3_secret_key", "one line"),
    ({"s3_access_key": CANARY + "\n" + CANARY}, "s3_access_key", "without blanks"),
    ({"s3_access_key": CANARY + "=" + CANARY}, "s3_access_key", "without blanks"),
    ({"minio_root_user": CANARY + ",x"}, "minio_root_user", "without blanks"),
    ({"jwt_secert": CANARY}, "jwt_secert", "jwt_secret"),
    ({"postgres_password": CANARY * 1000}, "postgres_password", "characters"),
]

# Contents of .env.local.
ENV_LOCAL = [
    ("LOG_LEVL=info", "LOG_LEVL", "LOG_LEVEL"),
    ("FRONTEND_PORT=http", "FRONTEND_PORT", "1 to 65535"),
    ("API_PORT=99999", "API_PORT", "1 to 65535"),
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
]
