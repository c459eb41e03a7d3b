# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what is wrong with a certificate and its key before a server is given them, without showing either."""

from __future__ import annotations

import datetime
import itertools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography import x509

_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z")
_CERTIFICATE = "stack_tls_certificate"
_KEY = "stack_secrets.tls_private_key"
# OpenSSL, which nginx reads them with, wants each of these at the beginning of a line and nothing behind it; the library that is asked here does not.
_BOUNDARY = re.compile(r"-----(?:BEGIN|END) [A-Z0-9 ]+-----")
_STRONG = "RSA of 2048 bits or more, or ECDSA on P-256, P-384 or P-521"


def _is_for(certificate: x509.Certificate, server_name: str) -> bool:
    """Return whether one of the certificate's names is the server's, as RFC 6125 compares them."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        return False
    wanted = server_name.lower()
    _host, _dot, domain = wanted.partition(".")
    return any(name.lower() == wanted or (domain and name.lower() == f"*.{domain}") for name in names)


def _is_for_servers(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return x509.oid.ExtendedKeyUsageOID.SERVER_AUTH in usages


def _may_sign(certificate: x509.Certificate) -> bool:
    """Return whether the certificate's key may sign, which it does in every handshake that browsers still take part in."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True


def _form_problems(name: str, text: str) -> list[str]:
    """Return a message where BEGIN or END does not stand alone on its line, as in a block that is indented, folded into one line, or joined to the next."""
    lines = [line.rstrip(" \t\r") for line in text.removeprefix("\ufeff").split("\n")]
    for line in lines:
        found = _BOUNDARY.search(line)
        if found and found[0] != line:
            message = f"{name} has {found[0]} on a line with something else, and nginx would not read it. Give it line by line, not indented "
            return [message + "(in YAML a block with |), with a line end between two files."]
    return []


def _is_strong(key: Any) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= 2048
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _certificate_problems(chain: list[x509.Certificate], server_name: str | None, now: datetime.datetime) -> list[str]:
    leaf = chain[0]
    problems = []
    for position, certificate in enumerate(chain, start=1):
        which = f"{_CERTIFICATE}: certificate {position} of {len(chain)}"
        if now > certificate.not_valid_after_utc:
            remedy = "Give a renewed one." if position == 1 else "Give the chain of today, or leave out what browsers know a newer one of."
            problems.append(f"{which} expired on {certificate.not_valid_after_utc:%Y-%m-%d}. {remedy}")
        if now < certificate.not_valid_before_utc:
            problems.append(f"{which} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. Check the controller's clock.")
        if not _is_strong(certificate.public_key()):
            problems.append(f"{which} has a weak or unusual key. Use {_STRONG}.")
        algorithm = certificate.signature_hash_algorithm
        # A root is trusted by itself, whatever it is signed with.
        is_root = position > 1 and certificate.issuer == certificate.subject
        if not is_root and algorithm is not None and algorithm.name in ("md5", "sha1"):
            problems.append(f"{which} is signed with {algorithm.name.upper()}, which browsers refuse. Have it issued with SHA-256 or better.")
    for position, (certificate, issuer) in enumerate(itertools.pairwise(chain), start=1):
        if not _is_issued_by(certificate, issuer):
            problems.append(
                f"{_CERTIFICATE}: certificate {position} was not issued by the one after it. "
                "Put the server's own certificate first, then each issuer in turn, and leave out what does not belong to the chain."
            )
    if not _is_for_servers(leaf):
        problems.append(f"{_CERTIFICATE} was not issued for servers: its extended key usage lacks serverAuth.")
    if not _may_sign(leaf):
        problems.append(f"{_CERTIFICATE} was not issued for signatures: its key usage lacks digitalSignature, so browsers refuse it. Have it issued with it.")
    if server_name is not None and not _is_for(leaf, server_name):
        problems.append(f"{_CERTIFICATE} is not made out to stack_server_name: none of its DNS names is that one. Correct one of the two.")
    return problems


def _key_problems(key: str, leaf: x509.Certificate) -> list[str]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except TypeError:
        return [f"{_KEY} has a passphrase, which nobody types when the frontend starts. Give the key without one; the vault protects it."]
    except (ValueError, UnsupportedAlgorithm):
        return [f"{_KEY} must be a private key in PEM, from -----BEGIN ... PRIVATE KEY----- to the matching END, but it cannot be read as one."]
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        return [f"{_KEY} does not belong to {_CERTIFICATE}, whose first certificate must be the server's own. Give the pair."]
    return []


def tls_problems(certificate: str | None, key: str | None = None, server_name: str | None = None, now: datetime.datetime | None = None) -> list[str]:
    """Return a message for every reason why a browser would refuse the certificate from the server of that name at that moment.

    ``certificate`` is the server's own in PEM, followed by its chain, each issued by the next; None for no TLS. ``key`` is the private key in PEM without a
    passphrase. Whether browsers trust the authority at the end of the chain is not checked.
    """
    problems = []
    if server_name is not None and not _NAME.match(str(server_name)):
        problems.append("stack_server_name must be a DNS name such as campaign.example.com, without scheme, port and wildcard.")
    if certificate is None:
        if key is not None:
            problems.append(f"{_KEY} is given, but {_CERTIFICATE} is not. Give both, or neither.")
        return problems
    # Imported here, because it takes a tenth of a second and most runs have no certificate.
    from cryptography import x509

    if server_name is None:
        problems.append(f"{_CERTIFICATE} needs stack_server_name, the DNS name that it is made out to.")
    if key is None:
        problems.append(f"{_CERTIFICATE} is given, but {_KEY} is not. Give both, or neither.")
    if "PRIVATE KEY" in str(certificate):
        return [*problems, f"{_CERTIFICATE} holds a private key, and it is not a secret: everybody on the host may read it. Move the key to {_KEY}."]
    try:
        chain = x509.load_pem_x509_certificates(str(certificate).encode())
    except ValueError:
        return [*problems, f"{_CERTIFICATE} must be certificates in PEM, each from -----BEGIN CERTIFICATE----- to its END, but it cannot be read as that."]
    problems += _form_problems(_CERTIFICATE, str(certificate)) + (_form_problems(_KEY, str(key)) if key is not None else [])
    problems += _certificate_problems(chain, server_name, now or datetime.datetime.now(datetime.UTC))
    return problems + (_key_problems(str(key), chain[0]) if key is not None else [])
