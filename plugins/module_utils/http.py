# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small HTTP client that can ask an address under another name and trust one certificate only, with the standard library."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Seconds without a byte.
TIMEOUT = 10.0


class HttpError(Exception):
    """There was no HTTP answer; the text says from which address and why."""


@dataclass(frozen=True)
class Tls:
    """Ask by https: the PEM certificate and chain to expect, and the DNS name to ask for."""

    certificate: str
    server_name: str


@dataclass(frozen=True)
class Target:
    """Where to ask: the first of the addresses that accepts a connection, by http or by https."""

    addresses: Sequence[str]
    port: int
    tls: Tls | None = None


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body, with a mark where it is not UTF-8."""
        return self.body.decode(errors="replace")


class HttpsConnection(http.client.HTTPConnection):
    """A connection to an address under another name, which trusts the given certificates only and expects the first of them."""

    def __init__(self, address: str, port: int, timeout: float, tls: Tls):
        super().__init__(address, port, timeout=timeout)
        self._server_name = tls.server_name
        # What tools write around certificates is not part of them.
        blocks = re.findall(rf"{ssl.PEM_HEADER}.*?{ssl.PEM_FOOTER}", tls.certificate, re.DOTALL)
        if not blocks:
            raise ssl.SSLError(1, "the certificate to expect is not in PEM")
        self._expected = ssl.PEM_cert_to_DER_cert(blocks[0])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A chain rarely holds its root, so each of its certificates may be the end of the way.
        self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._context.load_verify_locations(cadata="\n".join(blocks))

    def connect(self) -> None:
        super().connect()
        secured = self._context.wrap_socket(self.sock, server_hostname=self._server_name)
        self.sock = secured
        if secured.getpeercert(binary_form=True) != self._expected:
            raise ssl.SSLError(1, "another certificate than the one that was given")


def _connection(address: str, target: Target, timeout: float) -> http.client.HTTPConnection:
    if target.tls:
        return HttpsConnection(address, target.port, timeout, target.tls)
    return http.client.HTTPConnection(address, target.port, timeout=timeout)


def exchange(
    target: Target,
    method: str,
    path: str,
    *,
    body: str | bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Answer:
    """Ask, and return the answer; raise HttpError where none of the addresses gives one.

    ``timeout`` is in seconds without a byte. A request that was sent once is not sent to another address.
    """
    problem = "there is no address to ask"
    for address in target.addresses:
        try:
            connection = _connection(address, target, TIMEOUT if timeout is None else timeout)
            connection.connect()
        except (OSError, ValueError) as error:
            problem = f"{address}:{target.port}: {getattr(error, 'strerror', None) or error}"
            continue
        try:
            named = {"Host": target.tls.server_name} if target.tls else {}
            connection.request(method, path, body, {**named, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise HttpError(f"{address}:{target.port}: {type(error).__name__}") from None
        finally:
            connection.close()
    raise HttpError(problem)
