# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of an air-gap bundle: a tar archive with one directory, whose every file stands in SHA256SUMS."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORMAT = 1
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# Everything that may stand in a bundle. A name is compared as a whole, so nothing leads out of the directory.
_MEMBER = re.compile(
    r"manifest\.json|SHA256SUMS|sbom\.cdx\.json|requirements\.txt|README\.md|collection/[A-Za-z0-9][\w.+-]*\.tar\.gz|wheels/[A-Za-z0-9][\w.+-]*\.whl"
    r"|images/[0-9a-f]{64}\.(json|tar\.gz)"
)
_BLOCK = 1 << 20


class BundleError(Exception):
    """A bundle cannot be written or used. The message says why and what to do."""


class HashingReader(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, raw: io.BufferedReader):
        self._raw = raw
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._raw.read(size)
        self.digest.update(data)
        return data


@contextmanager
def written_whole(path: str) -> Iterator[io.BufferedWriter]:
    """Give a file to write that takes its name only when it is complete."""
    handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's mode is the owner's alone; a bundle holds no secret.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def member_info(name: str, size: int) -> tarfile.TarInfo:
    """Return a header that is the same on every machine at any time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bundle(staging: str, path: str) -> str:
    """Write everything in a directory as a bundle, with its checksums, and return the archive's SHA-256."""
    names = sorted(os.path.relpath(os.path.join(directory, name), staging) for directory, _, files in os.walk(staging) for name in files)
    for name in names:
        if not _MEMBER.fullmatch(name):
            raise BundleError(f"{name} has no place in a bundle.")
    sums = "".join(f"{file_digest(os.path.join(staging, name))}  {name}\n" for name in names).encode()
    prefix = os.path.basename(path).removesuffix(".tar")
    # The two that are asked for in every run stand in front.
    ordered = ["manifest.json", *(name for name in names if name != "manifest.json")]
    with written_whole(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member_info(f"{prefix}/SHA256SUMS", len(sums)), io.BytesIO(sums))
        for name in ordered:
            source = os.path.join(staging, name)
            with open(source, "rb") as content:
                archive.addfile(member_info(f"{prefix}/{name}", os.path.getsize(source)), content)
    digest = file_digest(path)
    with written_whole(f"{path}.sha256") as file:
        file.write(f"{digest}  {os.path.basename(path)}\n".encode())
    return digest


def _member_name(path: str, info: tarfile.TarInfo, seen: dict[str, str]) -> str:
    prefix, _, name = info.name.partition("/")
    if not info.isfile() or not _PREFIX.fullmatch(prefix) or not _MEMBER.fullmatch(name) or name in seen:
        raise BundleError(f"{path} holds {info.name!r}, which has no place in a bundle. Nothing of it was used. Write the bundle again.")
    return name


def _sums(path: str, text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    if not all(re.fullmatch(r"[0-9a-f]{64}  \S+", line) for line in lines):
        raise BundleError(f"{path}: SHA256SUMS is damaged. Copy the bundle again.")
    return {line[66:]: line[:64] for line in lines}


def _opened(archive: tarfile.TarFile, info: tarfile.TarInfo) -> io.BufferedReader:
    """Return the content of a member, which _member_name has found to be a file."""
    content = archive.extractfile(info)
    if not isinstance(content, io.BufferedReader):
        raise BundleError(f"{info.name!r} is not a file. Nothing of it was used. Write the bundle again.")
    return content


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BundleError(f"{path} is not there. images_bundle names the archive of playbooks/bundle.yml on this machine.") from None
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(f"{path} is not a bundle, or it is broken ({error}). Copy it again.") from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}.") from None


def read_manifest(path: str) -> dict[str, Any]:
    """Return a bundle's manifest, checked against the bundle's checksums and format."""
    with _explained(path), tarfile.open(path, "r:") as archive:
        first, second = archive.next(), archive.next()
        if first is None or second is None or _member_name(path, first, {}) != "SHA256SUMS" or _member_name(path, second, {}) != "manifest.json":
            raise BundleError(f"{path} is a tar archive, but not a bundle of this collection. Write one with playbooks/bundle.yml.")
        sums, text = _sums(path, _opened(archive, first).read()), _opened(archive, second).read()
    if sums.get("manifest.json") != hashlib.sha256(text).hexdigest():
        raise BundleError(f"{path}: manifest.json has another checksum than SHA256SUMS says. Copy the bundle again.")
    manifest: dict[str, Any] = json.loads(text)
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{path} has format {manifest.get('format')}, this collection reads format {FORMAT}. Use the collection inside the bundle.")
    return manifest


def _expected_digest(path: str) -> str:
    try:
        with open(f"{path}.sha256", encoding="utf-8") as file:
            digest = file.read(64)
    except FileNotFoundError:
        raise BundleError(f"{path}.sha256 is not there. It belongs beside the bundle; copy both.") from None
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BundleError(f"{path}.sha256 holds no checksum. Copy it again.")
    return digest


def verify(path: str) -> None:
    """Read a bundle once, and raise BundleError unless the archive and each member are what the checksums say."""
    with _explained(path), open(path, "rb") as file:
        expected = _expected_digest(path)
        reader = HashingReader(file)
        sums: dict[str, str] = {}
        seen: dict[str, str] = {}
        with tarfile.open(fileobj=reader, mode="r|") as archive:
            for info in archive:
                name = _member_name(path, info, seen)
                content = _opened(archive, info)
                if name == "SHA256SUMS":
                    sums = _sums(path, content.read())
                    seen[name] = ""
                else:
                    seen[name] = hashlib.file_digest(content, "sha256").hexdigest()
        while reader.read(_BLOCK):
            pass
        seen.pop("SHA256SUMS", None)
        for name in sorted(set(sums) | set(seen)):
            if sums.get(name) != seen.get(name):
                what = "is missing" if name not in seen else "is not among the checksums" if name not in sums else "has another checksum than SHA256SUMS says"
                raise BundleError(f"{path}: {name} {what}. Nothing of it was used. Copy the bundle again.")
        if reader.digest.hexdigest() != expected:
            raise BundleError(f"{path} has another checksum than {os.path.basename(path)}.sha256 says. Nothing of it was used. Copy both again.")


def write_docker_archive(path: str, keys: list[str], destination: str) -> int:
    """Verify a bundle, write the named images as an archive for `docker load`, and return its size."""
    manifest = read_manifest(path)
    verify(path)
    missing = [key for key in keys if key not in manifest["images"]]
    if missing:
        raise BundleError(f"{path} has no image for {', '.join(missing)}. Write the bundle again, with the inventory that is deployed.")
    images = [manifest["images"][key] for key in keys]
    wanted = {f"images/{image['id'].removeprefix('sha256:')}.json" for image in images} | {
        f"images/{layer}.tar.gz" for image in images for layer in image["layers"]
    }
    names: dict[tuple[str, ...], list[str]] = {}
    for image in images:
        names.setdefault((image["id"], *image["layers"]), []).append(image["reference"])
    listing = [
        {"Config": f"{image_id.removeprefix('sha256:')}.json", "RepoTags": sorted(tags), "Layers": [f"{layer}.tar.gz" for layer in layers]}
        for (image_id, *layers), tags in names.items()
    ]
    text = json.dumps(listing).encode()
    with _explained(path), written_whole(destination) as file, tarfile.open(path, "r:") as bundle, tarfile.open(fileobj=file, mode="w") as target:
        target.addfile(member_info("manifest.json", len(text)), io.BytesIO(text))
        for info in bundle:
            name = info.name.partition("/")[2]
            if name in wanted:
                target.addfile(member_info(os.path.basename(name), info.size), bundle.extractfile(info))
    return os.path.getsize(destination)


def check_space(directory: str, needed: int) -> None:
    """Raise BundleError where a directory has less room than is needed."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise BundleError(f"{directory} has {free >> 20} MiB free, {needed >> 20} MiB are needed. Free some, or choose another directory.")
