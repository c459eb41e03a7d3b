# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three kinds of server that services sign in to, the stack's own or external ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.campaign.platform.plugins.plugin_utils.texts import service_url, url_host, url_path

EGRESS = "egress-network"
# Path of the file with the certificates of private authorities, in containers that sign in to an external server.
CA_FILE = "/etc/campaign/external-ca.pem"
# Node's client verifies for sslmode=require unless it is told to read it as libpq does.
_POSTGRES_PARAMETERS = {"disable": "", "require": "?uselibpqcompat=true&sslmode=require", "verify-full": "?sslmode=verify-full"}
# The stack's own servers, unless an inventory names external ones.
_OWN: dict[str, dict[str, Any]] = {
    "postgres": {"host": "postgres", "port": 5432, "tls": "disable", "user_suffix": ""},
    "redis": {"host": "redis", "port": 6379, "tls": False},
    "s3": {"endpoint": "http://minio:9000", "path_style": True},
}
_EXTERNAL_DEFAULTS: dict[str, dict[str, Any]] = {
    "postgres": {"host": "", "port": 5432, "tls": "verify-full", "user_suffix": ""},
    "redis": {"host": "", "port": 6379, "tls": True},
    "s3": {"endpoint": "", "path_style": True},
}
SERVICES = {"postgres": "postgres", "redis": "redis", "s3": "minio"}
# Jobs that create a server's logins. PostgreSQL's runs beside an external server too.
JOBS = {"postgres": "postgres-bootstrap", "redis": "redis-bootstrap", "s3": "minio-bootstrap"}
# The job that removes the accounts of earlier keys, once nobody signs in with them.
S3_LAST_JOB = "minio-retire"
# Users of the stack's own Redis that no service may be called by.
OWN_USERS = ("default", "health", "bootstrap")
VARIABLES = {kind: f"stack_{kind}_external" for kind in SERVICES}
# Names of the secret files with the URL. A login at S3 has a key pair instead.
URL_FILES = {"postgres": "database_url", "redis": "redis_url"}


@dataclass(frozen=True)
class Login:
    """A login at a server: names of the secrets that it needs, and the row that says what it may do."""

    server: str
    name: str
    user: str
    password: str
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        """Return the names of the login's secrets."""
        return [self.user, self.password] if self.server == "s3" else [self.password]


def login(server: str, name: str, row: Mapping[str, Any]) -> Login:
    """Return a login with the names that follow from its own name where the row says nothing else.

    ``user`` is the user's name, or for S3 the name of the secret with the access key. ``password`` is always the name of a secret.
    """
    stem = name.replace("-", "_")
    if server == "s3":
        return Login(server, name, str(row.get("access_key", f"s3_{stem}_access_key")), str(row.get("secret_key", f"s3_{stem}_secret_key")), row)
    user = f"campaign_{stem}_login" if server == "postgres" else stem
    # The name may be an expression, which only stays one as the object that it is.
    return Login(server, name, row.get("user", user), str(row.get("password", f"{server}_{stem}_password")), row)


def role_of(name: str, row: Mapping[str, Any]) -> str:
    """Return the name of the PostgreSQL role that has a login's rights."""
    return str(row.get("role", f"campaign_{name.replace('-', '_')}"))


@dataclass(frozen=True)
class Server:
    """One server as services see it."""

    kind: str
    external: bool
    values: Mapping[str, Any]
    database: str = ""

    @property
    def service(self) -> str:
        """Return the name of the service that is the stack's own server."""
        return SERVICES[self.kind]

    @property
    def ca(self) -> str:
        """Return the certificates of the server's private authority, or an empty text."""
        return str(self.values.get("ca") or "").strip()

    def url(self, user: str, password: str) -> str:
        """Return the URL of the server (PostgreSQL or Redis) with the credentials in it."""
        location = f"{url_host(self.values['host'])}:{self.values['port']}"
        if self.kind == "postgres":
            path = f"/{url_path(self.database)}{_POSTGRES_PARAMETERS[self.values['tls']]}"
            return service_url("postgres", user + self.values["user_suffix"], password, location + path)
        return service_url("rediss" if self.values["tls"] else "redis", user, password, location)

    def path_style(self, bucket: str) -> bool:
        """Return whether a bucket of S3 stands in the path: where it is asked for, and where no certificate could be for the bucket's host name.

        A wildcard stands for one label, so it is not for a bucket with dots (https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html), and
        an address has no names below it.
        """
        parts = urlsplit(self.values["endpoint"])
        is_address = bool(re.fullmatch(r"[0-9.]+|.*:.*", parts.hostname or ""))
        return bool(self.values["path_style"]) or is_address or (parts.scheme == "https" and "." in bucket)

    def names(self) -> dict[str, Any]:
        """Return what entries and templates may ask of the server."""
        libpq: dict[str, str] = {}
        if self.kind == "postgres":
            user = "${POSTGRES_USER:?}" + self.values["user_suffix"]
            libpq = {"PGHOST": self.values["host"], "PGUSER": user, "PGDATABASE": "${POSTGRES_DB:?}", "PGPASSFILE": "/run/secrets/pgpass"}
        if libpq and self.external:
            libpq |= {"PGPORT": str(self.values["port"]), "PGSSLMODE": self.values["tls"]}
            if self.values["tls"] == "verify-full":
                libpq["PGSSLROOTCERT"] = "/etc/campaign/postgres-ca.pem" if self.values.get("ca") else "system"
        return {**self.values, "ca": self.values.get("ca") or "", "external": self.external, "libpq": libpq}


def external(variables: Collection[str]) -> set[str]:
    """Return the kinds of server that variables replace by one outside the stack."""
    return {kind for kind, name in VARIABLES.items() if name in variables}


def servers(arguments: Mapping[str, Any]) -> dict[str, Server]:
    """Return the servers that the arguments ask for, by kind. The database's name is added when the settings are known."""
    found = {}
    for kind, own in _OWN.items():
        given = arguments.get(VARIABLES[kind])
        values = dict(own) if given is None else {**_EXTERNAL_DEFAULTS[kind], **given}
        if "host" in values:
            # An IPv6 address with or without the brackets that it has in a URL.
            values["host"] = values["host"].strip("[]")
        found[kind] = Server(kind, given is not None, values)
    return found
