# SPDX-License-Identifier: GPL-3.0-or-later
"""The frontend by TLS: protocols, certificate, redirect, and the headers of every answer. For a stack with TLS; conftest.py says what it needs."""

import contextlib
import datetime
import http.client
import os
import re
import secrets
import socket
import ssl
import threading
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HSTS = "max-age=63072000"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Method, path, body and status: from nginx itself, from its files, from the api, and from nginx when something is wrong.
ANSWERS = [
    ("GET", "/", None, 200),
    ("GET", "/campaigns/anything", None, 200),
    ("GET", "/favicon.svg", None, 200),
    ("GET", "ASSET", None, 200),
    ("GET", "/assets/missing.js", None, 404),
    ("GET", "/healthz", None, 200),
    ("GET", "/api/health/ready", None, 200),
    ("GET", "/api/missing", None, 404),
    ("POST", "/api/campaigns", b"{}", 401),
    ("POST", "/", b"", 405),
    ("POST", "/api/campaigns", b"x" * (7 * 2**20), 413),
    ("GET", "/%", None, 400),
]
by_answer = pytest.mark.parametrize(("method", "path", "body", "status"), ANSWERS, ids=[f"{method} {path} {status}" for method, path, _body, status in ANSWERS])


class Frontend:
    """The frontend as a client reaches it, under its name, at an address that need not be in the DNS."""

    def __init__(self, url: str, plain: str, ca: str, address: str | None):
        self.name, self.port = urlsplit(url).hostname, urlsplit(url).port or 443
        self.plain_port = urlsplit(plain).port or 80
        self.url = url
        self.ca = ca
        self.address = address or self.name

    def connect(self, port: int) -> socket.socket:
        return socket.create_connection((self.address, port), timeout=10)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def handshake(self, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
        with self.connect(self.port) as raw, context.wrap_socket(raw, server_hostname=name or self.name) as secured:
            return secured.version(), secured.cipher()[0], secured.selected_alpn_protocol()

    def ask(self, method: str, path: str, body=None, *, is_plain=False, port=None, host=None) -> tuple[int, http.client.HTTPMessage, str]:
        """Return status, headers and text of an answer."""
        connection = http.client.HTTPConnection(self.name, timeout=10)
        connection.sock = self.connect(port or (self.plain_port if is_plain else self.port))
        if not is_plain:
            connection.sock = self.context().wrap_socket(connection.sock, server_hostname=self.name)
        try:
            # skip_accept_encoding: a compressed page could not be searched.
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host or self.name)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
                connection.putheader("Content-Type", "application/json")
            connection.endheaders()
            # What is too long is refused before all of it was sent, and the answer is there to be read.
            with contextlib.suppress(OSError):
                connection.send(body or b"")
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode(errors="replace")
        finally:
            connection.close()


@pytest.fixture(scope="module")
def frontend(url, is_tls) -> Frontend:
    assert is_tls
    return Frontend(url, os.environ["LIVE_TLS"], os.environ["LIVE_CA"], os.environ.get("LIVE_ADDRESS"))


@pytest.fixture(scope="module")
def answer_of(frontend):
    """Ask for one of ANSWERS; the name of a real asset stands in the page."""
    page = frontend.ask("GET", "/")[2]
    asset = re.search(r"/assets/[\w.-]+\.js", page)[0]

    def ask(method: str, path: str, body, status: int) -> http.client.HTTPMessage:
        got, headers, text = frontend.ask(method, asset if path == "ASSET" else path, body)
        assert got == status, text[:200]
        return headers

    return ask


@pytest.mark.parametrize(("version", "name"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")])
def test_current_versions_are_spoken(frontend, version, name):
    context = frontend.context()
    context.minimum_version = context.maximum_version = version
    assert frontend.handshake(context)[0] == name


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=lambda version: version.name)
def test_old_versions_are_refused(frontend, version):
    context = frontend.context()
    # Without these two this side would be the one that refuses.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError) as refused:
        frontend.handshake(context)
    assert refused.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


def old_hello(server_name: str) -> bytes:
    """Return a ClientHello of TLS 1.1. OpenSSL itself would refuse to send one on most hosts, which would prove nothing about the server."""

    def sized(content: bytes, width: int = 2) -> bytes:
        return len(content).to_bytes(width, "big") + content

    name = server_name.encode("idna")
    server_names = b"\0\0" + sized(sized(b"\0" + sized(name)))
    curves = b"\0\x0a" + sized(sized(bytes.fromhex("001700180019")))
    formats = b"\0\x0b" + sized(b"\x01\0")
    # ECDHE and RSA key exchange with AES-CBC: what TLS 1.1 had.
    ciphers = bytes.fromhex("c009c00ac013c014002f0035")
    hello = b"\x03\x02" + secrets.token_bytes(32) + b"\0" + sized(ciphers) + b"\x01\0" + sized(server_names + curves + formats)
    return b"\x16\x03\x01" + sized(b"\x01" + sized(hello, 3))


def first_record(connection: socket.socket, server_name: str) -> int:
    """Send the old hello; return the type of the first record that comes back: 21 is an alert, 22 goes on with the handshake."""
    connection.sendall(old_hello(server_name))
    return connection.recv(1)[0]


@pytest.fixture
def lenient_port(tmp_path, frontend):
    """A server of this machine that speaks TLS 1.0 and later."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, frontend.name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "chain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.load_cert_chain(tmp_path / "chain.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _address = listener.accept()
            # The client goes away in the middle of the handshake.
            with connection, contextlib.suppress(OSError):
                context.wrap_socket(connection, server_side=True)

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]


def test_a_client_that_knows_tls_1_1_only_is_turned_away(frontend):
    with frontend.connect(frontend.port) as connection:
        assert first_record(connection, frontend.name) == 21


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_server_that_takes_tls_1_1_takes_that_client(frontend, lenient_port):
    with socket.create_connection(("127.0.0.1", lenient_port), timeout=10) as connection:
        assert first_record(connection, frontend.name) == 22


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "AES256-SHA", "ECDHE+SHA", "ECDHE+AES+SHA256"])
def test_ciphers_without_forward_secrecy_or_authenticated_encryption_are_refused(frontend, ciphers):
    context = frontend.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    offered = [cipher["name"] for cipher in context.get_ciphers() if "GCM" not in cipher["name"] or "GCM" in ciphers]
    context.set_ciphers(":".join(offered) + ":@SECLEVEL=0")
    with pytest.raises(ssl.SSLError) as refused:
        frontend.handshake(context)
    assert refused.value.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
def test_http2_is_spoken_and_not_forced(frontend, offered, chosen):
    context = frontend.context()
    context.set_alpn_protocols(offered)
    assert frontend.handshake(context)[2] == chosen


def test_the_certificate_is_for_this_name_only(frontend):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        frontend.handshake(frontend.context(), name=f"other.{frontend.name}")


def test_only_who_trusts_the_authority_trusts_the_certificate(frontend):
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|unable to get local issuer"):
        frontend.handshake(ssl.create_default_context())


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/", "/campaigns?page=1&x=%20", "/api/health/ready", "/assets/missing.js", "/healthz/"])
def test_http_redirects_to_https(frontend, method, path):
    status, headers, _text = frontend.ask(method, path, b"" if method == "POST" else None, is_plain=True)
    # 308 keeps method and body, 301 would turn a POST into a GET.
    assert (status, headers["Location"]) == (308, frontend.url + path)
    # By RFC 6797, 7.2, never on HTTP.
    assert "Strict-Transport-Security" not in headers
    assert {name: headers[name] for name in HEADERS} == HEADERS


def test_a_redirect_does_not_follow_the_name_in_the_request(frontend):
    status, headers, _text = frontend.ask("GET", "/", is_plain=True, host="evil.example")
    assert (status, headers["Location"]) == (308, frontend.url + "/")


def test_the_healthcheck_s_path_is_answered_on_http(frontend):
    status, _headers, text = frontend.ask("GET", "/healthz", is_plain=True)
    assert (status, text) == (200, "ok\n")


def test_http_on_the_port_of_https_is_redirected(frontend):
    status, headers, _text = frontend.ask("GET", "/page", is_plain=True, port=frontend.port)
    assert (status, headers["Location"]) == (308, f"{frontend.url}/page")


@by_answer
def test_every_answer_has_the_security_headers_once(answer_of, method, path, body, status):
    headers = answer_of(method, path, body, status)
    assert {name: headers.get_all(name) for name in HEADERS} == {name: [value] for name, value in HEADERS.items()}
    assert headers.get_all("Strict-Transport-Security") == [HSTS]
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@by_answer
def test_no_answer_says_what_made_it(answer_of, method, path, body, status):
    headers = answer_of(method, path, body, status)
    assert headers["Server"] == "nginx"
    assert {"X-Powered-By", "Via", "X-AspNet-Version"} & set(headers) == set()


@pytest.mark.parametrize("path", ["/assets/missing.js", "/%"])
def test_an_error_page_does_not_name_the_version(frontend, path):
    text = frontend.ask("GET", path)[2]
    assert "<center>nginx</center>" in text
    assert not re.search(r"nginx/\d", text)


def test_only_the_frontend_can_read_the_key(host):
    mounted = {
        service: mount["Source"]
        for service, container in host.containers.items()
        for mount in container["Mounts"]
        if "tls_private_key" in mount["Source"] + mount["Destination"]
    }
    assert set(mounted) == {"frontend"}
    assert host.text("stat", "--format=%u:%g %a", mounted["frontend"]).strip() == "101:101 400"
    # And it stands neither in what the frontend mounts beside it, nor in what the Engine knows.
    assert b"PRIVATE KEY" in host.run("cat", mounted["frontend"]).stdout
    for mount in host.containers["frontend"]["Mounts"]:
        if mount["Source"] != mounted["frontend"]:
            # The routes are a directory.
            beside = host.run("find", mount["Source"], "-type", "f", "-exec", "cat", "{}", "+").stdout
            assert beside
            assert b"PRIVATE KEY" not in beside
    assert "PRIVATE KEY" not in host.text("docker", "inspect", host.containers["frontend"]["Id"])
