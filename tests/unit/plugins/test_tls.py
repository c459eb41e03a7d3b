# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a certificate is said before a server gets it."""

import datetime
import re

import pytest
from ansible_collections.campaign.platform.plugins.plugin_utils.tls import tls_problems
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NAME = "campaign.example.com"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
P256 = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
SERVERS, CLIENTS = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH


def issue(key=P256, names=(NAME,), start=-1, end=30, usage=SERVERS, issuer=None, signer=None, algorithm=None, subject="server", authority=False, signs=None):
    """Return a certificate, issued by another one or by itself."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer.subject if issuer else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + start * DAY)
        .not_valid_after(NOW + end * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if signs is not None:
        kinds = ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
        builder = builder.add_extension(x509.KeyUsage(signs, **{kind: kind == "key_encipherment" for kind in kinds}), critical=True)
    signer = signer or key
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else algorithm or hashes.SHA256())


def pem(*certificates) -> str:
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in certificates)


def key_pem(key=P256, encryption=None, form=serialization.PrivateFormat.PKCS8) -> str:
    return key.private_bytes(serialization.Encoding.PEM, form, encryption or serialization.NoEncryption()).decode()


ROOT_KEY = ec.generate_private_key(ec.SECP384R1())
ROOT = issue(ROOT_KEY, names=(), usage=None, subject="authority", authority=True)
LEAF = issue(issuer=ROOT, signer=ROOT_KEY)
ED25519 = ed25519.Ed25519PrivateKey.generate()
WEAK_RSA = rsa.generate_private_key(65537, 1024)
WEAK_EC = ec.generate_private_key(ec.SECP224R1())


def resigned(certificate: x509.Certificate, algorithm: int) -> x509.Certificate:
    """Return an RSA certificate that says it is signed with another algorithm, because the library signs with none that is weak."""
    rsa_encryption = bytes.fromhex("2a864886f70d0101")
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    return x509.load_der_x509_certificate(encoded.replace(rsa_encryption + b"\x0b", rsa_encryption + bytes([algorithm])))


MD5, SHA1 = 4, 5


@pytest.mark.parametrize(
    ("certificate", "key", "name"),
    [
        (None, None, None),
        (None, None, NAME),
        (pem(issue()), key_pem(), NAME),
        (pem(LEAF), key_pem(), NAME),
        (pem(LEAF, ROOT), key_pem(), NAME),
        (pem(LEAF).strip(), key_pem().strip(), NAME),
        (pem(issue(names=("other.example.com", NAME))), key_pem(), NAME),
        (pem(issue(names=("*.example.com",))), key_pem(), NAME),
        (pem(issue()), key_pem(), NAME.upper()),
        (pem(issue(usage=None)), key_pem(), NAME),
        (pem(issue(RSA)), key_pem(RSA), NAME),
        (pem(issue()), key_pem(form=serialization.PrivateFormat.TraditionalOpenSSL), NAME),
        (pem(issue(signs=True)), key_pem(), NAME),
        # As other systems write them.
        (pem(LEAF, ROOT).replace("\n", "\r\n"), key_pem().replace("\n", "\r\n"), NAME),
        ("Bag Attributes\n    friendlyName: server\n" + pem(LEAF), "\ufeff" + key_pem(), NAME),
        (pem(LEAF, ROOT).replace("-\n", "- \n"), key_pem(), NAME),
    ],
)
def test_nothing_is_wrong(certificate, key, name):
    assert tls_problems(certificate, key=key, server_name=name) == []


@pytest.mark.parametrize(
    ("certificate", "key", "name", "message"),
    [
        (pem(LEAF), None, NAME, "stack_tls_certificate is given, but stack_secrets.tls_private_key is not"),
        (None, key_pem(), NAME, "tls_private_key is given, but stack_tls_certificate is not"),
        (pem(LEAF), key_pem(), None, "needs stack_server_name"),
        (pem(LEAF), key_pem(), "", "stack_server_name must be a DNS name"),
        (pem(LEAF), key_pem(), f"https://{NAME}", "stack_server_name must be a DNS name"),
        (pem(LEAF), key_pem(), f"{NAME}:443", "stack_server_name must be a DNS name"),
        (None, None, "*.example.com", "stack_server_name must be a DNS name"),
        (None, None, f"{NAME}; return 200", "stack_server_name must be a DNS name"),
        (None, None, f"{NAME}\n", "stack_server_name must be a DNS name"),
        ("", key_pem(), NAME, "must be certificates in PEM"),
        ("certificate", key_pem(), NAME, "must be certificates in PEM"),
        (pem(LEAF)[:200], key_pem(), NAME, "must be certificates in PEM"),
        (pem(LEAF).replace("M", "!", 3), key_pem(), NAME, "must be certificates in PEM"),
        (pem(LEAF) + key_pem(), key_pem(), NAME, "holds a private key"),
        (pem(LEAF), "", NAME, "must be a private key in PEM"),
        (pem(LEAF), "key", NAME, "must be a private key in PEM"),
        (pem(LEAF), pem(LEAF), NAME, "must be a private key in PEM"),
        (pem(LEAF), key_pem(encryption=serialization.BestAvailableEncryption(b"secret")), NAME, "has a passphrase"),
        (pem(LEAF), key_pem(OTHER), NAME, "does not belong to stack_tls_certificate"),
        (pem(ROOT, LEAF), key_pem(), NAME, "does not belong to stack_tls_certificate"),
        (pem(issue(start=-30, end=-1)), key_pem(), NAME, "certificate 1 of 1 expired on"),
        (pem(issue(start=1)), key_pem(), NAME, "certificate 1 of 1 is not valid before"),
        (pem(LEAF, issue(ROOT_KEY, names=(), start=-30, end=-1, subject="authority", authority=True)), key_pem(), NAME, "certificate 2 of 2 expired on"),
        (pem(LEAF, issue(OTHER, subject="authority", authority=True)), key_pem(), NAME, "certificate 1 was not issued by the one after it"),
        (pem(LEAF, LEAF, ROOT), key_pem(), NAME, "certificate 1 was not issued by the one after it"),
        (pem(issue(names=("other.example.com",))), key_pem(), NAME, "is not made out to stack_server_name"),
        (pem(issue(names=())), key_pem(), NAME, "is not made out to stack_server_name"),
        (pem(issue(names=("*.com",))), key_pem(), NAME, "is not made out to stack_server_name"),
        (pem(issue(names=("*.campaign.example.com",))), key_pem(), NAME, "is not made out to stack_server_name"),
        (pem(issue(usage=CLIENTS)), key_pem(), NAME, "lacks serverAuth"),
        (pem(issue(WEAK_RSA)), key_pem(WEAK_RSA), NAME, "has a weak or unusual key"),
        (pem(resigned(issue(RSA), SHA1)), key_pem(RSA), NAME, "certificate 1 of 1 is signed with SHA1"),
        (pem(resigned(issue(RSA), MD5)), key_pem(RSA), NAME, "certificate 1 of 1 is signed with MD5"),
        (pem(issue(WEAK_EC)), key_pem(WEAK_EC), NAME, "has a weak or unusual key"),
        (pem(issue(ED25519)), key_pem(ED25519), NAME, "has a weak or unusual key"),
        (pem(issue(signs=False)), key_pem(), NAME, "its key usage lacks digitalSignature"),
        (pem(LEAF).strip() + pem(ROOT), key_pem(), NAME, "stack_tls_certificate has -----END CERTIFICATE----- on a line with something else"),
        (pem(LEAF).replace("\n", " "), key_pem(), NAME, "in YAML a block with |"),
        (pem(LEAF).replace("\n", "\r"), key_pem(), NAME, "on a line with something else"),
        (pem(LEAF).replace("\n", "\n  "), key_pem(), NAME, "-----END CERTIFICATE----- on a line"),
        (" " + pem(LEAF), key_pem(), NAME, "-----BEGIN CERTIFICATE----- on a line"),
        (pem(LEAF), key_pem().replace("\n", " "), NAME, "tls_private_key has -----BEGIN PRIVATE KEY----- on a line with something else"),
    ],
)
def test_what_is_wrong_is_reported_by_name_and_without_a_value(certificate, key, name, message):
    problems = tls_problems(certificate, key=key, server_name=name)
    assert any(message in problem for problem in problems), problems
    for problem in problems:
        assert "stack_" in problem
        # Neither a line of the key nor one of the certificate.
        assert not re.search(r"[A-Za-z0-9+/]{40}", problem)


def test_a_root_may_be_signed_with_anything():
    root = resigned(issue(RSA, names=(), usage=None, subject="authority", authority=True), SHA1)
    assert tls_problems(pem(issue(issuer=root, signer=RSA), root), key_pem(), NAME) == []


def test_the_time_is_the_one_that_is_given():
    assert tls_problems(pem(issue()), key_pem(), NAME, now=NOW) == []
    (problem,) = tls_problems(pem(issue()), key_pem(), NAME, now=NOW + 31 * DAY)
    assert "expired" in problem
