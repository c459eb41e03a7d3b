# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client of S3 as MinIO speaks it, with the standard library only: requests signed with AWS Signature Version 4, and bodies that are streamed."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError

SECONDS = 60
ATTEMPTS = 5
# What MinIO takes in one request. With Amazon it would be a thousandth of that.
LARGEST = 5 * 1024**4
# What belongs to an object beside its bytes and its own metadata.
_HEADERS = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires")
# What a bucket may have, by the name of the question for it.
SETTINGS = ("policy", "versioning", "lifecycle", "tagging")
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class S3Error(BackupError):
    """A request failed; ``status`` is that of HTTP, 0 where there was no answer, and ``code`` the server's."""

    def __init__(self, what: str, status: int, code: str):
        super().__init__(f"{what}: {code}" + (f" (HTTP {status})" if status else ""))
        self.status, self.code = status, code


class Listed(NamedTuple):
    """An object in a listing. There may be very many of them."""

    bucket: str
    key: str
    size: int
    # They tell whether it was written again.
    etag: str
    modified: str


@dataclass
class Client:
    """A client of the server at an address, which is asked for again when a connection fails: a container that was replaced has another one."""

    address: Callable[[], tuple[str, int]]
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self.address(), timeout=SECONDS)
        return self._connection

    def _signed(self, method: str, path: str, query: str, headers: Mapping[str, str], host: str) -> dict[str, str]:
        now = datetime.datetime.now(datetime.UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        sent = {**headers, "host": host, "x-amz-date": stamp, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
        # Of the others the server may see other bytes than a text stands for: what is not ASCII has none that everybody agrees on.
        names = sorted(name for name in sent if name == "host" or name.startswith("x-amz-"))
        canonical = "\n".join([method, path, query, *(f"{name}:{' '.join(sent[name].split())}" for name in names), "", ";".join(names), "UNSIGNED-PAYLOAD"])
        scope = f"{day}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret_key}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        credential = f"{self.access_key}/{scope}"
        sent["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={';'.join(names)}, Signature={signature}"
        return sent

    def _send(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes | IO[bytes] | None, length: int
    ) -> http.client.HTTPResponse:
        connection = self._connect()
        text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
        signed = self._signed(method, path, text, headers, f"{connection.host}:{connection.port}")
        if body is not None:
            signed["content-length"] = str(length)
        connection.request(method, f"{path}?{text}" if text else path, body=body, headers=signed)
        return connection.getresponse()

    def request(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
        length: int = 0,
        again: bool = True,
    ) -> http.client.HTTPResponse:
        """Return an answer whose body is not read yet; raise S3Error for one that is not 2xx, or where there is none after some attempts.

        Raises BackupError where there is no address after as many.
        """
        reason: BackupError
        for attempt in range(ATTEMPTS):
            try:
                answer = self._send(method, path, query or {}, headers or {}, body, length)
                if answer.status < 300:
                    return answer
                text = answer.read()
                if answer.status < 500 or not again:
                    raise S3Error(what, answer.status, _code(text))
                reason = S3Error(what, answer.status, _code(text))
            except S3Error:
                raise
            except BackupError as error:
                # While its container is being replaced, the server has no address.
                reason = error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                reason = S3Error(what, 0, type(error).__name__)
            if not again or attempt == ATTEMPTS - 1:
                raise reason
            time.sleep(2**attempt)
        raise AssertionError

    def ask(self, what: str, method: str, path: str, query: Mapping[str, str] | None = None, **options: Any) -> bytes:
        """Return the body of an answer; raise S3Error."""
        return self.request(what, method, path, query, **options).read()

    def buckets(self) -> list[str]:
        """Return the names of the buckets."""
        found = _parsed(self.ask("listing the buckets", "GET", "/"))
        return sorted(str(name.text) for name in found.iter(f"{_NAMESPACE}Name"))

    def objects(self, bucket: str) -> Iterator[Listed]:
        """Yield the objects of a bucket in the order of their keys, without earlier versions."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": "1000"}
        while True:
            page = _parsed(self.ask(f"listing the bucket {bucket}", "GET", f"/{quote(bucket)}", query))
            for row in page.iter(f"{_NAMESPACE}Contents"):
                values = {name: row.findtext(f"{_NAMESPACE}{name}") or "" for name in ("Key", "Size", "ETag", "LastModified")}
                yield Listed(bucket, _unquoted(values["Key"]), int(values["Size"]), values["ETag"].strip('"'), values["LastModified"])
            more = page.findtext(f"{_NAMESPACE}NextContinuationToken")
            if page.findtext(f"{_NAMESPACE}IsTruncated") != "true" or not more:
                return
            query["continuation-token"] = more

    def setting(self, bucket: str, name: str) -> str | None:
        """Return a setting of a bucket as the server spells it, None where it has none."""
        try:
            text = self.ask(f"reading the {name} of the bucket {bucket}", "GET", f"/{quote(bucket)}", {name: ""}).decode()
        except S3Error as error:
            if error.status in (404, 501):
                return None
            raise
        # What was never set is an empty element.
        return None if name == "versioning" and "<Status>" not in text else text

    def put_setting(self, bucket: str, name: str, text: str) -> None:
        """Give a bucket a setting."""
        body = text.encode()
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {"content-md5": _base64(digest)}
        self.ask(f"setting the {name} of the bucket {bucket}", "PUT", f"/{quote(bucket)}", {name: ""}, headers=headers, body=body, length=len(body))

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket."""
        self.ask(f"creating the bucket {bucket}", "PUT", f"/{quote(bucket)}", body=b"", length=0)

    @contextlib.contextmanager
    def opened(self, listed: Listed) -> Iterator[tuple[Reading, dict[str, Any]]]:
        """Yield an object's bytes and what belongs to it; raise S3Error with the status 404 where it is gone."""
        what = f"reading {listed.bucket}/{listed.key}"
        answer = self.request(what, "GET", _path(listed.bucket, listed.key))
        reading = Reading(self, what, _path(listed.bucket, listed.key), answer)
        found: dict[str, Any] = {name: answer.headers[name] for name in _HEADERS if answer.headers[name] is not None}
        found |= {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("x-amz-meta-")}
        tagged = int(answer.headers.get("x-amz-tagging-count", "0"))
        try:
            yield reading, {"headers": found, "size": reading.left, "tagged": tagged}
        finally:
            if not reading.answer.isclosed():
                # The rest of the body would be taken for the next answer.
                self.close()

    def tags(self, bucket: str, key: str) -> str:
        """Return the tags of an object as the server spells them."""
        return self.ask(f"reading the tags of {bucket}/{key}", "GET", _path(bucket, key), {"tagging": ""}).decode()

    def put(self, bucket: str, key: str, body: IO[bytes], size: int, headers: Mapping[str, str]) -> None:
        """Write an object whose bytes can be read once."""
        self.ask(f"writing {bucket}/{key}", "PUT", _path(bucket, key), headers=headers, body=body, length=size, again=False)

    def put_tags(self, bucket: str, key: str, text: str) -> None:
        """Give an object its tags."""
        body = text.encode()
        headers = {"content-md5": _base64(hashlib.md5(body, usedforsecurity=False).digest())}
        self.ask(f"tagging {bucket}/{key}", "PUT", _path(bucket, key), {"tagging": ""}, headers=headers, body=body, length=len(body))


class Reading:
    """The bytes of an object. Where the connection ends before they do, they are read on from there: MinIO ends one that nobody has read from for 30 s."""

    def __init__(self, client: Client, what: str, path: str, answer: http.client.HTTPResponse):
        self.client, self.what, self.path, self.answer = client, what, path, answer
        self.size = self.left = int(answer.headers["content-length"])
        self.version = answer.headers["etag"] or "*"
        self.attempts = 0

    def read(self, size: int = -1) -> bytes:
        """Return as many bytes as were asked for, fewer at the end only; raise S3Error where they cannot be had."""
        parts, wanted = [], self.left if size < 0 else min(size, self.left)
        while wanted:
            try:
                part = self.answer.read(wanted)
            except (OSError, http.client.HTTPException):
                part = b""
            if not part:
                self._go_on()
                continue
            self.attempts = 0
            parts.append(part)
            wanted, self.left = wanted - len(part), self.left - len(part)
        return b"".join(parts)

    def _go_on(self) -> None:
        self.attempts += 1
        if self.attempts > ATTEMPTS:
            raise S3Error(self.what, 0, "it ended too early")
        self.client.close()
        # Of the same bytes: one that was written again meanwhile is refused.
        headers = {"range": f"bytes={self.size - self.left}-", "if-match": self.version}
        self.answer = self.client.request(self.what, "GET", self.path, headers=headers)
        if self.answer.status != http.client.PARTIAL_CONTENT:
            raise S3Error(self.what, self.answer.status, "the rest of it cannot be asked for")


def _path(bucket: str, key: str) -> str:
    return f"/{quote(bucket)}/{quote(key, safe='/-_.~')}"


def _base64(value: bytes) -> str:
    import base64

    return base64.b64encode(value).decode()


def _unquoted(text: str) -> str:
    from urllib.parse import unquote_plus

    return unquote_plus(text)


def _parsed(text: bytes) -> ElementTree.Element:
    # The stack's own server said it.
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:
        raise BackupError("The object store gave an answer that is no XML.") from None


def _code(text: bytes) -> str:
    try:
        return ElementTree.fromstring(text).findtext("Code") or "no reason given"
    except ElementTree.ParseError:
        return "no reason given"


class Digest:
    """A stream that counts and digests what is read of it."""

    def __init__(self, source: Any):
        self.source, self.size, self.digest = source, 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read as the stream itself does."""
        data = self.source.read(size)
        self.size += len(data)
        self.digest.update(data)
        return data


def facts_of(listed: Listed, size: int, digest: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of an object in a set."""
    about = {name: found[name] for name in ("headers", "tags") if found.get(name)}
    return {"bucket": listed.bucket, "key": listed.key, "size": size, "sha256": digest, **about}


def line(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of text."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
