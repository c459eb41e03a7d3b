# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take what `docker save` writes apart, while it is being written: layers by their digest, and what they say of their packages."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zlib
from dataclasses import dataclass, field

from ansible_collections.campaign.platform.plugins.module_utils.bundle_archive import BundleError

_PACKAGE_DATA = re.compile(
    r"var/lib/dpkg/status(\.d/[^/]+)?|(usr/lib|etc)/os-release|(var/lib|usr/lib/sysimage)/rpm/rpmdb\.sqlite|usr/share/doc/[^/]+/copyright"
)
_BINARY = re.compile(r"(usr/(local/)?)?s?bin/[^/]+|opt/bin/[^/]+")
_WHITEOUT = re.compile(r"(.*/)?\.wh\.([^/]+)")
_BLOCK = 1 << 20
# No program of Go's is smaller.
_SMALLEST_BINARY = 1 << 20


@dataclass
class Layer:
    """What one layer holds: the files that tell of packages, the Go programs' build information, and what it removes."""

    size: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)


@dataclass
class SavedImage:
    """One image: its configuration, as the Engine hashes it, and its layers' digests, the lowest first."""

    config: bytes
    layers: list[str]


class _CompressingReader:
    """Hands a layer on, and on the way hashes it and writes it compressed."""

    def __init__(self, raw, target):
        self._raw, self._target = raw, target
        self.digest, self.size = hashlib.sha256(), 0
        # Without a name and a time, the same layer gives the same bytes.
        self._gzip = zlib.compressobj(level=1, wbits=31)

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self.digest.update(data)
        self.size += len(data)
        self._target.write(self._gzip.compress(data))
        return data

    def finish(self) -> None:
        while self.read(_BLOCK):
            pass
        self._target.write(self._gzip.flush())


def go_build_info(content: bytes) -> str | None:
    """Return the module information of a program that Go 1.18 or newer built, with Go's version in its first line; None of any other."""
    start = content.find(b"\xff Go buildinf:")
    if start < 0 or not content[start + 15] & 2:
        return None

    def text(position: int) -> tuple[bytes, int]:
        length = shift = 0
        while True:
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return content[position : position + length], position + length

    version, position = text(start + 32)
    modules, _ = text(position)
    # Sixteen bytes on either side mark the text.
    return f"go\t{version.decode()}\n{modules[16:-16].decode(errors='replace')}"


def read_layer(stream) -> Layer:
    """Return what a layer says of packages."""
    layer = Layer()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            name = info.name.removeprefix("./")
            gone = _WHITEOUT.fullmatch(name)
            if gone:
                layer.removed.add(gone[1] or "" if gone[2] == ".wh..opq" else f"{gone[1] or ''}{gone[2]}")
            elif info.isfile() and _PACKAGE_DATA.fullmatch(name):
                layer.files[name] = archive.extractfile(info).read()
            elif info.isfile() and info.size >= _SMALLEST_BINARY and _BINARY.fullmatch(name):
                found = go_build_info(archive.extractfile(info).read())
                if found:
                    layer.programs[name] = found
    return layer


def take_apart(stream, directory: str) -> tuple[dict[str, SavedImage], dict[str, Layer]]:
    """Write the layers and configurations of a `docker save` to a directory, and return images by id and layers by digest."""
    layers: dict[str, Layer] = {}
    texts: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|") as saved:
        for info in saved:
            if not info.isfile():
                continue
            content = saved.extractfile(info)
            if info.name.endswith(".json") or (info.size < _BLOCK and not info.name.endswith("/layer.tar")):
                texts[info.name] = content.read()
                if info.name.endswith(".json") or texts[info.name][:1] in (b"{", b"["):
                    continue
                # A layer may be as small as that, where layers are named by their digest.
                _keep_layer(_Bytes(texts[info.name]), directory, layers)
            else:
                _keep_layer(content, directory, layers)
    if "manifest.json" not in texts:
        raise BundleError("What docker save wrote has no manifest.json.")
    images = {}
    for entry in json.loads(texts["manifest.json"]):
        config = texts[entry["Config"]]
        chain = [digest.removeprefix("sha256:") for digest in json.loads(config)["rootfs"]["diff_ids"]]
        image_id = hashlib.sha256(config).hexdigest()
        absent = [digest for digest in chain if digest not in layers]
        if absent:
            raise BundleError(f"docker save wrote image {image_id[:12]} without its layer {absent[0][:12]}.")
        with open(os.path.join(directory, f"{image_id}.json"), "wb") as file:
            file.write(config)
        images[f"sha256:{image_id}"] = SavedImage(config, chain)
    return images, layers


class _Bytes:
    def __init__(self, content: bytes):
        self._content = content

    def read(self, size: int = -1) -> bytes:
        size = len(self._content) if size < 0 else size
        data, self._content = self._content[:size], self._content[size:]
        return data


def _keep_layer(content, directory: str, layers: dict[str, Layer]) -> None:
    temporary = os.path.join(directory, "layer")
    with open(temporary, "wb") as file:
        reader = _CompressingReader(content, file)
        try:
            layer = read_layer(reader)
        except tarfile.TarError:
            # Not a layer: a small file of the image store's own.
            layer = None
        reader.finish()
    if layer is None:
        os.unlink(temporary)
        return
    digest = reader.digest.hexdigest()
    layer.size = reader.size
    layers[digest] = layer
    os.replace(temporary, os.path.join(directory, f"{digest}.tar.gz"))


def merged(image: SavedImage, layers: dict[str, Layer]) -> Layer:
    """Return what an image holds when its layers lie upon each other."""
    result = Layer()
    for digest in image.layers:
        layer = layers[digest]
        for kept in (result.files, result.programs):
            for name in [name for name in kept if any(name == gone or name.startswith(gone.rstrip("/") + "/") for gone in layer.removed)]:
                del kept[name]
        result.files.update(layer.files)
        result.programs.update(layer.programs)
        result.size += layer.size
    return result
