# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP client of the verification: by https it trusts the given certificate and nothing else."""

import datetime
import socket
import ssl
import threading

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.http import HttpError, Target, exchange
from ansible_collections.campaign.platform.plugins.modules import verify
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = "campaign.example.com"
NOW = datetime.datetime.now(datetime.UTC)
KEY, OTHER, ROOT_KEY = (ec.generate_private_key(ec.SECP256R1()) for _number in range(3))


def issue(key=KEY, subject="server", issuer="server", signer=KEY, authority=False, days=30) -> str:
    """Return a certificate in PEM, issued by another one or by itself."""
    names = {role: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for role, name in (("subject", subject), ("issuer", issuer))}
    certificate = (
        x509.CertificateBuilder()
        .subject_name(names["subject"])
        .issuer_name(names["issuer"])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=60))
        .not_valid_after(NOW + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


SELF_SIGNED = issue()
ROOT = issue(ROOT_KEY, "authority", "authority", ROOT_KEY, authority=True)
LEAF = issue(KEY, "server", "authority", ROOT_KEY)
RENEWED = issue(OTHER, "server", "authority", ROOT_KEY)
EXPIRED = issue(days=-1)


@pytest.fixture
def serve(tmp_path):
    """Serve one answer by TLS with a certificate, on a port of this machine; what was asked lies in the list."""
    listeners, asked = [], []

    def start(certificate: str) -> int:
        key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        (tmp_path / "chain.pem").write_text(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "chain.pem")
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer() -> None:
            try:
                connection, _address = listener.accept()
                with connection, context.wrap_socket(connection, server_side=True) as secured:
                    asked.append(secured.recv(4096).decode())
                    secured.sendall(b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 5\r\n\r\nhello")
            except OSError:
                # The client went away, as it does when it is not content.
                return

        threading.Thread(target=answer, daemon=True).start()
        return listener.getsockname()[1]

    start.asked = asked
    yield start
    for listener in listeners:
        listener.close()


@pytest.fixture
def ask(engine, run_module):
    """Have the verification ask an https server, and return its failures."""

    def run(port: int, certificate: str, name: str = NAME, **more) -> list[str]:
        check = {"service": "frontend", "name": "page", "kind": "http", "address": "127.0.0.1", "port": port}
        check |= {"certificate": certificate, "server_name": name, **more}
        return [failure["got"] for failure in run_module(verify, project="p", services=[], checks=[check], socket=engine.path)["failures"]]

    return run


@pytest.mark.parametrize("chain", [SELF_SIGNED, LEAF, LEAF + ROOT, f"subject=server\n{LEAF}issuer=authority\n"], ids=["own", "without root", "root", "text"])
def test_the_verification_asks_by_https(serve, ask, chain):
    assert ask(serve(chain), chain, contains="hello", headers={"Strict-Transport-Security": "max-age=1"}) == []
    # Under its name, at an address that need not be in the DNS.
    assert f"Host: {NAME}\r\n" in serve.asked[0]


@pytest.mark.parametrize(
    ("served", "given", "name", "more", "message"),
    [
        (LEAF, LEAF, "other.example.com", {}, "mismatch"),
        (SELF_SIGNED, LEAF, NAME, {}, "self-signed"),
        (EXPIRED, EXPIRED, NAME, {}, "expired"),
        # As after a renewal that the server has not seen: of the same authority, and another certificate.
        (LEAF, RENEWED + ROOT, NAME, {}, "another certificate than the one that was given"),
        (LEAF, LEAF, NAME, {"headers": {"X-Absent": "1"}}, "no such header"),
        (LEAF, LEAF, NAME, {"status": 404}, "200"),
        (LEAF, "no PEM", NAME, {}, "the certificate to expect is not in PEM"),
        (LEAF, LEAF.replace("M", "-"), NAME, {}, "127.0.0.1:"),
    ],
)
def test_the_verification_is_not_content_with(serve, ask, served, given, name, more, message):
    (found,) = ask(serve(served), given, name, **more)
    assert message in found


def test_a_server_without_tls_is_found_out(web, ask):
    web.on("GET", "/", "hello")
    (found,) = ask(web.port, LEAF)
    assert "SSL" in found


def test_the_next_address_is_asked_where_the_first_does_not_accept(web):
    web.on("POST", "/a", lambda request: request.body)
    answer = exchange(Target(["127.0.0.9", "127.0.0.1"], web.port), "POST", "/a", body="text", headers={"X-A": "1"})
    assert (answer.status, answer.text, web.requests[0].headers["X-A"]) == (200, "text", "1")
    with pytest.raises(HttpError, match=r"127\.0\.0\.9:\d+: Connection refused"):
        exchange(Target(["127.0.0.9"], web.port), "GET", "/")


def test_what_was_asked_once_is_not_asked_again_elsewhere(web):
    web.on("POST", "/a", "text")
    with socket.create_server(("127.0.0.9", web.port)) as silent:
        threading.Thread(target=lambda: silent.accept()[0].close(), daemon=True).start()
        with pytest.raises(HttpError, match=r"127\.0\.0\.9"):
            exchange(Target(["127.0.0.9", "127.0.0.1"], web.port), "POST", "/a", body="text")
    assert web.requests == []


def test_text_that_is_not_utf_8_can_be_shown(web):
    web.on("GET", "/", b"\xff")
    assert exchange(Target(["127.0.0.1"], web.port, None), "GET", "/").text == "\ufffd"
