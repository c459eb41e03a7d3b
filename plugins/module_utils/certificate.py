# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read until when a certificate is valid, with the standard library only, which has no public function for it."""

from __future__ import annotations

import datetime
import re
import ssl

# Tags of ASN.1: an optional version, and the two kinds of time.
_VERSION, _UTC_TIME, _GENERAL_TIME = 0xA0, 0x17, 0x18


class CertificateError(ValueError):
    """The text holds no certificate that can be read."""


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the ASN.1 element that begins at a place."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    return tag, start, start + length


def _not_after(der: bytes) -> datetime.datetime:
    """Return the end of the validity of a certificate in DER: https://www.rfc-editor.org/rfc/rfc5280#section-4.1"""
    _tag, at, _end = _element(der, _element(der, 0)[1])
    tag, _start, end = _element(der, at)
    if tag == _VERSION:
        at = end
    # Serial number, algorithm and issuer stand before the validity.
    for _skipped in range(3):
        at = _element(der, at)[2]
    _tag, at, _end = _element(der, at)
    tag, start, end = _element(der, _element(der, at)[2])
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year, which mean 1950 to 2049.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERAL_TIME:
        raise ValueError(f"tag {tag}")
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)


def expiry(pem: str) -> datetime.datetime:
    """Return when the first of the certificates in a text in PEM ceases to be valid; raise CertificateError."""
    blocks = re.findall(rf"{ssl.PEM_HEADER}.*?{ssl.PEM_FOOTER}", pem, re.DOTALL)
    if not blocks:
        raise CertificateError("There is no certificate in it.")
    try:
        return min(_not_after(ssl.PEM_cert_to_DER_cert(block)) for block in blocks)
    except (ValueError, IndexError):
        raise CertificateError("It is not a certificate that can be read.") from None
