# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories elsewhere: over S3 with TLS of a private authority, and over SFTP with a pinned key. What is wrong with one is said, and gives no set.

The kinds of failures are those that people met with restic, Borg and panels over them: restic#1883 and #4876 (a server that is gone, and nobody says so),
restic#2736 and docker-mc-backup#201 (a lock that outlives its owner), backrest#535 and #873 (host keys), backrest#350 (a private authority),
all-in-one#5607 (another port), borg#7525 (a refusal that is told as a missing repository), coolify#5852 (signature and clock), coolify#9035 (a green status
and nothing stored), restic#21904 (a target that refuses to be written to).
"""

import contextlib
import datetime
import functools
import http.server
import ipaddress
import json
import os
import secrets
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import repository
from ansible_collections.campaign.platform.plugins.module_utils.backup import state as states
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import Docker
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from deployed import full_only, images, seen_in_processes

AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
ROOT, ROOT_SECRET = "root-of-the-test", secrets.token_hex(16)
KEEPER, READER = "keeper-of-the-sets", "reader-of-the-sets"
# Where nobody answers; whoever is there does in less, also on a machine with much to do.
PATIENCE = 15
SSHD = """Port 22
Port 2222
HostKey /etc/ssh/own_host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
Subsystem sftp internal-sftp
"""
# A directory of its own, and one that is somebody else's.
PREPARE = "useradd --no-create-home keeper && usermod --password '*' keeper && mkdir -p /srv/sets /srv/closed /run/sshd && chown keeper /srv/sets"
# Built once, and found again by its name.
SFTP_IMAGE = "campaign/sftp-server:1"
DOCKERFILE = """ARG BASE_IMAGE
FROM ${BASE_IMAGE}
USER 0:0
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt,mode=0444 \\
    apt-get update && apt-get install -y --no-install-recommends openssh-server && rm -rf /var/lib/apt/lists/*
ENTRYPOINT []
"""


def policy(bucket: str, *actions: str) -> str:
    """Return a policy that allows to list a bucket, and some actions with its objects."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": [f"arn:aws:s3:::{bucket}"]},
                {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": [f"arn:aws:s3:::{bucket}/*"]},
            ],
        }
    )


@dataclass
class Authority:
    """An authority for certificates of its own."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: x509.Name = field(default_factory=lambda: x509.Name.from_rfc4514_string("CN=authority of the test"))

    def sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(9))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @functools.cached_property
    def certificate(self) -> str:
        return self.sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=None)).decode()

    def server(self, *names: str) -> tuple[bytes, bytes]:
        """Return a certificate for names and addresses, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        certificate = self.sign(x509.Name.from_rfc4514_string("CN=server"), key, x509.SubjectAlternativeName(alternatives))
        return certificate, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def key_pair() -> tuple[str, str]:
    """Return a private key as OpenSSH writes it, and its public one."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


class Servers:
    """A server of S3 with TLS, and one of SFTP, on a network of their own with both families of addresses."""

    S3, SFTP = "sets.example.com", "keep.example.com"

    def __init__(self, stack, directory: Path):
        self.stack, self.docker, self.directory = stack, stack.docker, directory
        self.network = f"{stack.project}-elsewhere"
        self.names = {kind: f"{stack.project}-elsewhere-{kind}" for kind in ("s3", "sftp")}
        self.authority = Authority()
        self.secrets = {name: secrets.token_hex(16) for name in (KEEPER, READER)}
        self.key, self.public_key = key_pair()
        self.host_key, self.host_public_key = key_pair()
        self.addresses = {"s3": "fd00:7e57:5e75::10", "sftp": "fd00:7e57:5e75::11"}

    def start(self) -> None:
        self.stop()
        self.docker("network", "create", "--ipv6", "--subnet", "fd00:7e57:5e75::/64", self.network)
        shared = images()
        # Beside the tests over S3.
        self.building = self._build_sftp(shared["backup"])
        self._start_s3(shared["minio"])
        self._await_s3()

    def need(self, kind: str) -> None:
        """Have a server, which is started for the first test that needs it."""
        if kind == "sftp" and not self.docker("ps", "--quiet", "--filter", f"name={self.names['sftp']}"):
            assert self.building is None or self.building.wait(300) == 0
            self._start_sftp()

    def stop(self) -> None:
        self.docker("rm", "--force", "--volumes", *self.names.values(), check=False)
        self.docker("network", "rm", self.network, check=False)

    def _run(self, kind: str, alias: str, *arguments: str) -> None:
        place = ["--network", self.network, "--network-alias", alias, "--ip6", self.addresses[kind]]
        self.docker("run", "--detach", "--name", self.names[kind], *place, *arguments)

    def _start_s3(self, image: str) -> None:
        certificates = self.directory / "certificates"
        certificates.mkdir()
        for name, content in zip(("public.crt", "private.key"), self.authority.server(self.S3, "127.0.0.1", self.addresses["s3"]), strict=True):
            (certificates / name).write_bytes(content)
            os.chown(certificates / name, 1000, 1000)
        environment = ["--env", f"MINIO_ROOT_USER={ROOT}", "--env", f"MINIO_ROOT_PASSWORD={ROOT_SECRET}"]
        options = ["--cap-drop", "ALL", "--volume", f"{certificates}:/certificates:ro", *environment]
        self._run("s3", self.S3, *options, image, "server", "/data", "--certs-dir", "/certificates", "--address", ":9000")

    def _await_s3(self) -> None:
        deadline = time.monotonic() + 60
        while "sets" not in self.mc("mb", "--ignore-existing", "s/sets", check=False):
            assert time.monotonic() < deadline, self.docker("logs", self.names["s3"])
            time.sleep(0.5)
        for user, actions in ((KEEPER, ("GetObject", "PutObject", "DeleteObject")), (READER, ("GetObject",))):
            self.docker("exec", "--interactive", self.names["s3"], "sh", "-c", f"cat >/tmp/{user}", stdin=policy("sets", *actions))
            self.mc("admin", "user", "add", "s", user, self.secrets[user])
            self.mc("admin", "policy", "create", "s", user, f"/tmp/{user}")
            self.mc("admin", "policy", "attach", "s", user, "--user", user)

    def mc(self, *arguments: str, check: bool = True) -> str:
        host = f"MC_HOST_s=https://{ROOT}:{ROOT_SECRET}@127.0.0.1:9000"
        return self.docker("exec", "--env", host, self.names["s3"], "mc", "--insecure", "--config-dir", "/tmp/mc", *arguments, check=check)

    def _build_sftp(self, base: str) -> subprocess.Popen | None:
        if self.docker("image", "ls", "--quiet", SFTP_IMAGE):
            return None
        path = self.directory / "Dockerfile"
        path.write_text(DOCKERFILE)
        command = ["--build-arg", f"BASE_IMAGE={base}", "--secret", f"id=ca,src={AUTHORITIES}", "--tag", SFTP_IMAGE, "--file", str(path), str(path.parent)]
        return subprocess.Popen(["docker", "buildx", "build", "--quiet", "--load", *command], stdout=subprocess.DEVNULL)

    def _start_sftp(self) -> None:
        script = f'{PREPARE} && cd /etc/ssh && printf %s "$HOST" >own_host_key && printf %s "$KEY" >authorized_keys && printf %s "$CONFIG" >sshd_config'
        script += " && chmod 600 own_host_key && exec /usr/sbin/sshd -D -e"
        environment = {"HOST": self.host_key, "KEY": f'restrict,command="internal-sftp" {self.public_key}', "CONFIG": SSHD}
        options = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        self._run("sftp", self.SFTP, *options, "--init", SFTP_IMAGE, "sh", "-ec", script)
        deadline = time.monotonic() + 60
        while "Server listening" not in self.docker("exec", self.names["sftp"], "sh", "-c", "pgrep sshd >/dev/null && echo Server listening", check=False):
            assert time.monotonic() < deadline, self.docker("logs", self.names["sftp"])
            time.sleep(0.2)

    def known(self, name: str, key: str | None = None) -> str:
        return f"{name} {key or self.host_public_key}"

    # --- What an inventory says of them

    def place(self, kind: str) -> str:
        return f"s3:https://{self.S3}:9000/sets" if kind == "s3" else f"sftp:keeper@{self.SFTP}:/srv/sets/campaign"

    def variables(self, kind: str) -> dict[str, Any]:
        """Return what the inventory has of the role's variables."""
        if kind == "s3":
            own = {"backup_s3_access_key": KEEPER, "backup_s3_secret_key": self.secrets[KEEPER], "backup_ca": self.authority.certificate}
        else:
            own = {"backup_ssh_key": self.key, "backup_ssh_known_hosts": self.known(self.SFTP)}
        return {"backup_repository": self.place(kind), "backup_network": self.network, "backup_keep": {"last": 1}, **own}

    def files(self, kind: str) -> dict[str, str]:
        """Return the secret files that the role writes of them."""
        if kind == "s3":
            return {"aws_credentials": self.credentials(KEEPER, self.secrets[KEEPER]), "ca": self.authority.certificate}
        return {"ssh_key": self.key, "known_hosts": self.known(self.SFTP) + "\n"}

    def credentials(self, access_key: str, secret_key: str) -> str:
        return f"[default]\naws_access_key_id={access_key}\naws_secret_access_key={secret_key}\n"

    @contextlib.contextmanager
    def given(self, kind: str, place: str | None = None, files: Mapping[str, str] | None = None, **settings: Any) -> Iterator[None]:
        """Have the program another repository for a while, whatever the role was given."""
        self.need(kind)
        directory = self.stack.directory / "backup/secrets"
        before = {path.name: path.read_bytes() for path in directory.iterdir()}
        try:
            for name, content in {**self.files(kind), **(files or {})}.items():
                (directory / name).unlink(missing_ok=True)
                (directory / name).write_text(content)
                (directory / name).chmod(0o400)
                os.chown(directory / name, 10010, 10010)
            known = {"repository": place or self.place(kind), "network": self.network, "keep": {"last": 1}}
            with self.stack.configured(**{**known, **settings}):
                yield
        finally:
            for path in directory.iterdir():
                path.unlink()
            for name, kept in before.items():
                (directory / name).write_bytes(kept)
                (directory / name).chmod(0o400)
                os.chown(directory / name, 10010, 10010)

    def snapshots(self, kind: str) -> list[str]:
        """Return the names of restic's snapshots, as the server itself has them."""
        if kind == "s3":
            return sorted(line.split()[-1] for line in self.mc("ls", "s/sets/snapshots/").splitlines())
        return sorted(self.docker("exec", self.names["sftp"], "sh", "-c", "ls /srv/sets/campaign/snapshots 2>/dev/null || true").split())

    def sets(self) -> list[tuple[str, str]]:
        """Return names and states of the sets of the repository that the program has at the moment."""
        lines = [line.split() for line in self.stack.well("list").splitlines()]
        return [(words[0], words[1]) for words in lines if len(words) == 4 and words[2] == "snapshot"]


@pytest.fixture(scope="module")
def servers(stack, tmp_path_factory) -> Iterator[Servers]:
    found = Servers(stack, tmp_path_factory.mktemp("elsewhere"))
    known = {path: path.read_bytes() for path in (stack.directory / "backup/status.json", stack.directory / "backup/config.json")}
    try:
        found.start()
        yield found
    finally:
        found.stop()
        for path, content in known.items():
            path.write_bytes(content)


def change(stack) -> None:
    """Lose a row and an object, and have another row be another one."""
    stack.sql("""DELETE FROM public.shapes WHERE n = (SELECT min(n) FROM public.shapes); UPDATE public."Odd Name" SET f = f + 1""")
    client = stack.s3()
    doomed = next(listed for listed in client.objects("campaign-assets"))
    client.ask("removing it", "DELETE", f"/campaign-assets/{doomed.key}")
    client.close()


def secret_values(stack, servers: Servers) -> dict[str, str]:
    """Return what nobody may see, by what it is."""
    password = (stack.directory / "backup/secrets/password").read_text().strip()
    # A line of the key is as good as all of it, and a process has none of its newlines.
    return {"password": password, "secret key": servers.secrets[KEEPER], "ssh key": servers.key.splitlines()[2]}


# --- A round trip


def set_up(stack, servers: Servers, kind: str) -> None:
    """Set the backups up as a person does, and make the first one."""
    made = stack.play("backup", **servers.variables(kind))
    assert made.status == 0, made.text[-3000:]
    assert [name for name, value in secret_values(stack, servers).items() if value in made.text] == []
    for name, content in servers.files(kind).items():
        assert (stack.directory / "backup/secrets" / name).read_text().strip() == content.strip()


@pytest.mark.parametrize("kind", ["s3", "sftp"])
def test_a_round_trip_over_the_network_brings_everything_back(stack, servers, full, kind):
    """The sample restores from S3, and reads all of what it wrote to SFTP."""
    wanted = secret_values(stack, servers)
    with servers.given(kind):
        if full:
            set_up(stack, servers, kind)
            stack.change(objects=2)
        before, first = stack.fingerprint(), servers.snapshots(kind)
        with seen_in_processes(wanted) as seen:
            texts = [stack.well("backup", *(["--drill"] if full else []))]
        assert seen == {}
        ((name, state),) = servers.sets()
        assert state == ("verified" if full else "complete")
        # The first one was forgotten, pruned and checked there as well.
        assert len(servers.snapshots(kind)) == 1
        assert servers.snapshots(kind) != first
        assert not full or "1 sets are kept, 1 were removed" in texts[0]
        told = states.summary(str(stack.directory), time.time())
        assert (told["last_success"]["set"], told["sets"]) == (name, {"count": 1, "verified": int(full)})
        assert "backup failed" not in [row["name"] for row in told["findings"]]
        assert told["repository"] == servers.place(kind)
        if full or kind == "s3":
            change(stack)
            assert stack.fingerprint() != before
            texts.append(stack.well("restore", "--confirm", stack.project))
            assert stack.fingerprint() == before
            stack.well("remove-old")
        if full or kind == "sftp":
            stack.well("check", "--read-data")
        assert stack.own() == []
        kept = [path for path in (stack.directory / "backup").rglob("*") if path.is_file() and path.parent.name != "secrets"]
        texts += [path.read_bytes().decode(errors="replace") for path in kept]
        assert [what for what, value in wanted.items() if any(value in text for text in texts)] == []


@full_only
@pytest.mark.parametrize("kind", ["s3", "sftp"])
def test_the_password_of_a_repository_elsewhere_changes(stack, servers, kind):
    with servers.given(kind):
        stack.well("backup")
        known = servers.sets()
        old = (stack.directory / "backup/secrets/password").read_text()
        changed = stack.play("backup", **servers.variables(kind), backup_password="another horse battery staple")
        assert changed.status == 0, changed.text[-3000:]
        stack.well("drill")
        assert servers.sets()[-1][0] > known[-1][0]
        path = stack.directory / "backup/secrets/password"
        new = path.read_text()
        path.write_text(old)
        assert "does not open with this password" in stack.run("list").text
        path.write_text(new)
        back = stack.play("backup", **servers.variables(kind))
        assert back.status == 0, back.text[-3000:]
        assert path.read_text() == old


# --- What goes wrong


@dataclass
class Wrong:
    """Something that is wrong, as the inventory or the server has it, and what is said of it."""

    kind: str
    said: str
    place: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    # From when on the answer is late, in seconds; restic itself would take 900.
    seconds: float = 60


def wrongs(servers: Servers) -> dict[str, Wrong]:
    """Return what may be wrong, by name; the first ones are the sample."""
    s3, sftp = servers.place("s3"), servers.place("sftp")
    other_key, other_public = key_pair()
    at_port = servers.known(f"[{servers.SFTP}]:2223") + "\n"
    access, address = "Check backup_s3_access_key and backup_s3_secret_key", "Check backup_repository and backup_network"
    no_answer = "The server does not answer"
    return {
        "a wrong secret key": Wrong("s3", access, files={"aws_credentials": servers.credentials(KEEPER, "not-the-secret-key")}),
        "another host key": Wrong("sftp", "backup_ssh_known_hosts", files={"known_hosts": servers.known(servers.SFTP, other_public) + "\n"}),
        "no bucket, and none may be made": Wrong("s3", "Create the bucket", place=f"{s3}-of-nobody"),
        "a port that is closed": Wrong("sftp", no_answer, place=f"sftp://keeper@{servers.SFTP}:2223//srv/sets/campaign", files={"known_hosts": at_port}),
        "an unknown access key": Wrong("s3", access, files={"aws_credentials": servers.credentials("nobody", "not-the-secret-key")}),
        "an authority that is not trusted": Wrong("s3", "backup_ca", files={"ca": Authority().certificate}),
        "a key that may only read": Wrong("s3", "write and delete", files={"aws_credentials": servers.credentials(READER, servers.secrets[READER])}),
        "no TLS asked for": Wrong("s3", "Write s3:https:// in backup_repository", place=s3.replace("https", "http")),
        "a server that is not there": Wrong("s3", no_answer, place=s3.replace("9000", "9009")),
        "an address that nobody has": Wrong("s3", no_answer, place=s3.replace(servers.S3, "192.0.2.1")),
        "a name that nobody has": Wrong("s3", address, place=s3.replace("sets.", "nobody.")),
        "no host key": Wrong("sftp", "backup_ssh_known_hosts", files={"known_hosts": servers.known("other.example.com") + "\n"}),
        "another user key": Wrong("sftp", "authorized_keys", files={"ssh_key": other_key}),
        "a key that was cut off": Wrong("sftp", "not a whole private key", files={"ssh_key": servers.key[:200] + "\n"}),
        "another user": Wrong("sftp", "authorized_keys", place=sftp.replace("keeper", "somebody")),
        "another name": Wrong("sftp", address, place=sftp.replace("keep.", "nobody."), files={"known_hosts": servers.known("nobody.example.com") + "\n"}),
        "a directory of somebody else": Wrong("sftp", "may not read and write", place=sftp.replace("/srv/sets", "/srv/closed")),
        "a wrong password": Wrong("s3", "does not open with this password", files={"password": "not-the-password-of-it\n"}),
    }


SAMPLE = 2
NAMES = list(wrongs(Servers(SimpleNamespace(project="", docker=None), Path())))


def pytest_generate_tests(metafunc):
    if "wrong" in metafunc.fixturenames:
        chosen = NAMES if metafunc.config.getoption("--full") else NAMES[:SAMPLE]
        metafunc.parametrize("wrong", chosen, ids=lambda name: name.replace(" ", "-"))


def test_what_is_wrong_with_a_repository_elsewhere_is_said(stack, servers, full, wrong, tmp_path):
    case = wrongs(servers)[wrong]
    servers.need(case.kind)
    place = case.place or servers.place(case.kind)
    wanted = secret_values(stack, servers) | {f"wrong {name}": text.splitlines()[-1] for name, text in case.files.items() if name == "aws_credentials"}
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/told\n')
    hook.chmod(0o755)
    if full and not servers.snapshots(case.kind):
        with servers.given(case.kind):
            # One that is there, for what only reading it is wrong with.
            stack.well("backup")
    with servers.given(case.kind, case.place, case.files, hook=[str(hook)], patience=PATIENCE):
        known, before = servers.snapshots(case.kind), time.monotonic()
        with seen_in_processes(wanted) as seen:
            result = stack.run("--quiet", "backup")
        seconds, state = time.monotonic() - before, stack.state()
    assert result.status == 1, result.text
    assert case.said in result.text
    # One line, that names the place.
    assert len(result.text.strip().splitlines()) == 1, result.text
    assert f"The repository {place} " in result.text
    assert (state["last_run"]["result"], state["last_run"]["error"]) == ("failed", result.text.strip())
    assert "backup failed" in [row["name"] for row in states.findings(state, {}, time.time())]
    assert (tmp_path / "told").read_text().split() == ["failed"]
    assert (seen, stack.own(), servers.snapshots(case.kind)) == ({}, [], known)
    assert [what for what, value in wanted.items() if value in result.text + json.dumps(state)] == []
    assert seconds < case.seconds, f"{wrong} took {seconds:.0f} s"
    if full:
        with servers.given(case.kind):
            stack.well("backup")
            assert servers.sets()[-1][1] == "complete"


@full_only
def test_another_port_and_addresses_of_both_families_lead_to_the_same_sets(stack, servers):
    known = {}
    for kind in ("s3", "sftp"):
        with servers.given(kind):
            stack.well("backup")
            known[kind] = servers.sets()
    at_port = {"known_hosts": servers.known(f"[{servers.SFTP}]:2222") + "\n"}
    at_address = {"known_hosts": servers.known(servers.addresses["sftp"]) + "\n"}
    for kind, place, files in (
        ("s3", f"s3:https://[{servers.addresses['s3']}]:9000/sets", {}),
        ("sftp", f"sftp://keeper@{servers.SFTP}:2222//srv/sets/campaign", at_port),
        ("sftp", f"sftp://keeper@[{servers.addresses['sftp']}]//srv/sets/campaign", at_address),
    ):
        with servers.given(kind, place, files):
            assert servers.sets() == known[kind], place


# Answers every request as a server of S3 does whose clock is another one.
SKEWED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the server's time is too large.</Message></Error>"""


class Skewed(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(SKEWED)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(SKEWED)

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_arguments: Any) -> None:
        pass


@full_only
def test_a_clock_that_is_another_one_is_told(stack, servers, tmp_path):
    address = stack.docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", servers.network)
    for name, content in zip(("certificate", "key"), servers.authority.server(address), strict=True):
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    with http.server.ThreadingHTTPServer((address, 0), Skewed) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with servers.given("s3", f"s3:https://{address}:{server.server_port}/sets"):
                result = stack.run("--quiet", "backup")
        finally:
            server.shutdown()
            thread.join()
    assert (result.status, "Set both by NTP" in result.text) == (1, True), result.text


@contextlib.contextmanager
def much(stack) -> Iterator[None]:
    """Have more to store than restic keeps in memory until it uploads."""
    stack.sql(
        "CREATE TABLE public.large AS SELECT i, (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 32) j) AS t "
        "FROM generate_series(1, 60000) i"
    )
    try:
        yield
    finally:
        stack.sql("DROP TABLE public.large")


def at_the_dump(stack) -> subprocess.Popen:
    """Start a backup, and return it when it is in the middle."""
    process = stack.start("backup")
    for line in process.stdout:
        if "dumping" in line:
            return process
    raise AssertionError("It did not come to the dump.")


def stop(servers: Servers, kind: str) -> None:
    # Of SFTP, the session alone: restic sees its end at once, and does not begin another one.
    command = ("stop", "--time", "1", servers.names["s3"]) if kind == "s3" else ("exec", servers.names["sftp"], "pkill", "-9", "-f", "sshd-session: keeper")
    servers.docker(*command)


@full_only
@pytest.mark.parametrize("kind", ["sftp", "s3"])
def test_a_server_that_goes_away_in_the_middle_gives_no_set(stack, servers, kind):
    """That of S3 is waited for by restic, a quarter of an hour."""
    with servers.given(kind), much(stack):
        stack.well("backup")
        known = servers.sets()
        process = at_the_dump(stack)
        stop(servers, kind)
        try:
            output, _error = process.communicate(timeout=2400)
        finally:
            servers.docker("start", servers.names["s3"])
        assert process.returncode == 1, output
        assert "The server does not answer" in output or "The name of the server is not known here" in output
        assert stack.state()["last_run"]["result"] == "failed"
        assert (stack.directory / "lock.json").read_text() == ""
        assert stack.own() == []
        assert [row for row in servers.sets() if row[1] != "incomplete"] == known
        stack.well("backup", "--drill")
        found = dict(servers.sets())
        assert ("incomplete" in found.values(), found[max(found)]) == (False, "verified")


@full_only
def test_a_server_that_comes_back_is_waited_for(stack, servers):
    with servers.given("s3"), much(stack):
        process = at_the_dump(stack)
        stop(servers, "s3")
        time.sleep(15)
        servers.docker("start", servers.names["s3"])
        output, _error = process.communicate(timeout=400)
        assert process.returncode == 0, output
        stack.well("drill")


def locked_by(stack, owner: str) -> None:
    """Kill restic while it has the repository of SFTP for itself, as on a host of another name or on this one."""
    config = json.loads((stack.directory / "backup/config.json").read_text())
    docker = Docker(owner, str(stack.directory / "client"), f"{owner}-killed")
    killed = repository.Repository(docker, config["image"], config["repository"], owner, str(stack.directory / "backup"), config["network"])
    for _attempt in range(10):
        process = docker.start(*killed.options(docker.run), config["image"], *killed.arguments(), "check", "--read-data")
        try:
            while process.popen.poll() is None:
                if killed.ask("locks", "--no-lock", "list", "locks").split():
                    break
        finally:
            docker.remove_container(docker.run)
            process.kill()
        if killed.ask("locks", "--no-lock", "list", "locks").split():
            return
    raise AssertionError("It was not killed while it had the lock.")


@full_only
def test_a_lock_that_a_killed_run_of_this_stack_left_is_removed(stack, servers):
    """restic itself never takes it for stale: https://github.com/restic/restic/issues/2736"""
    with servers.given("sftp"), much(stack):
        stack.well("backup")
        locked_by(stack, stack.project)
        before = time.monotonic()
        stack.well("list")
        stack.well("backup", "--drill")
        assert time.monotonic() - before < 200


@full_only
def test_a_lock_of_another_host_is_respected_and_told(stack, servers):
    with servers.given("sftp"), much(stack):
        stack.well("backup")
        locked_by(stack, "other")
        # Who only reads takes no lock.
        stack.well("list")
        result = stack.run("--quiet", "check")
        assert result.status == 1, result.text
        assert "is locked by another host for longer than five minutes" in result.text
        assert "other-backup" in result.text
        config = json.loads((stack.directory / "backup/config.json").read_text())
        docker = Docker("other", str(stack.directory / "client"), "other-unlocks")
        person = repository.Repository(docker, config["image"], config["repository"], "other", str(stack.directory / "backup"), config["network"])
        person.ask("unlock", "unlock", "--remove-all")
        stack.well("backup", "--drill")
