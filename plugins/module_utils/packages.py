# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What packages there are, as each ecosystem writes it down."""

from __future__ import annotations

import contextlib
import email.parser
import json
import os
import re
import sqlite3
import struct
import zipfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """A package as a package URL names it. Licences are as the ecosystem spells them."""

    kind: str
    name: str
    version: str
    namespace: str | None = None
    qualifiers: tuple[tuple[str, str], ...] = ()
    licences: tuple[str, ...] = ()
    sha256: str | None = None


def _distribution(files: dict[str, bytes], unknown: str) -> tuple[str, str]:
    """Return the name of an image's distribution, and that with its version."""
    release = (files.get("etc/os-release") or files.get("usr/lib/os-release") or b"").decode(errors="replace")
    fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', release, re.MULTILINE))
    distribution = fields.get("ID", unknown)
    # Debian's testing has no number yet.
    return distribution, f"{distribution}-{fields.get('VERSION_ID') or fields.get('VERSION_CODENAME') or 'unknown'}"


def debian_packages(files: dict[str, bytes]) -> list[Package]:
    """Return the packages that dpkg installed in an image, from the files that its layers hold."""
    distribution, distro = _distribution(files, "debian")
    found = []
    for path in sorted(files):
        if not path.startswith("var/lib/dpkg/"):
            continue
        for stanza in re.split(r"\n\s*\n", files[path].decode(errors="replace")):
            entry = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", stanza, re.MULTILINE))
            if "Package" not in entry or not entry.get("Status", "install ok installed").endswith(" installed"):
                continue
            licences = debian_licences(files.get(f"usr/share/doc/{entry['Package']}/copyright", b""))
            qualifiers = (("arch", entry.get("Architecture", "all")), ("distro", distro))
            found.append(Package("deb", entry["Package"], entry["Version"], distribution, qualifiers, licences))
    return found


def debian_licences(text: bytes) -> tuple[str, ...]:
    """Return the short names of licences in a copyright file of the machine-readable format; none of any other."""
    content = text.decode(errors="replace")
    if not content.startswith("Format:"):
        return ()
    return tuple(sorted({name.strip() for name in re.findall(r"^License: *(\S.*)$", content, re.MULTILINE)}))


# https://rpm-software-management.github.io/rpm/manual/tags.html
_RPM_TAGS = {1000: "name", 1001: "version", 1002: "release", 1003: "epoch", 1014: "licence", 1022: "arch"}
_RPM_INT32, _RPM_STRINGS = 4, (6, 9)


def _rpm_header(blob: bytes) -> dict[str, str]:
    """Return what a header of RPM's database says of its package: numbers of entries and of bytes, entries of tag, type, offset and count, and the bytes."""
    entries, _size = struct.unpack_from(">2I", blob)
    data = 8 + 16 * entries
    found = {}
    for number in range(entries):
        tag, kind, offset, _count = struct.unpack_from(">4I", blob, 8 + 16 * number)
        if tag in _RPM_TAGS and kind == _RPM_INT32:
            found[_RPM_TAGS[tag]] = str(struct.unpack_from(">I", blob, data + offset)[0])
        elif tag in _RPM_TAGS and kind in _RPM_STRINGS:
            found[_RPM_TAGS[tag]] = blob[data + offset : blob.index(b"\0", data + offset)].decode(errors="replace")
    return found


def rpm_packages(files: dict[str, bytes]) -> list[Package]:
    """Return the packages that RPM installed in an image, from the files that its layers hold."""
    distribution, distro = _distribution(files, "rpm")
    headers = []
    for path in sorted(files):
        if not path.endswith("/rpmdb.sqlite"):
            continue
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            # Its header says that there is a log beside it, which a database in memory has not.
            database.deserialize(files[path][:18] + b"\1\1" + files[path][20:])
            headers += [_rpm_header(blob) for (blob,) in database.execute("SELECT blob FROM Packages")]
    found = []
    for header in headers:
        # Keys that a person trusts are kept as packages.
        if header.get("arch") is None or header["name"] == "gpg-pubkey":
            continue
        epoch = (("epoch", header["epoch"]),) if header.get("epoch", "0") != "0" else ()
        version = f"{header['version']}-{header['release']}"
        licences = (header["licence"],) if header.get("licence") else ()
        # As package URLs call the maker of Red Hat Enterprise Linux and its images.
        maker = "redhat" if distribution == "rhel" else distribution
        found.append(Package("rpm", header["name"], version, maker, (("arch", header["arch"]), ("distro", distro), *epoch), licences))
    return sorted(set(found), key=lambda package: (package.name, package.version))


def go_packages(build_info: str) -> list[Package]:
    """Return the modules of a Go program, the program's own first, and Go's standard library."""
    found = []
    for line in build_info.splitlines():
        fields = line.split("\t")
        if fields[0] == "go" and len(fields) > 1:
            found.append(_go("std", re.sub(r"^go", "", fields[1])))
        elif fields[0] in ("mod", "dep") and len(fields) > 2:
            found.append(_go(fields[1], fields[2]))
        elif fields[0] == "=>" and len(fields) > 2:
            # The line before was replaced by this module.
            found[-1] = _go(fields[1], fields[2])
    return sorted(set(found), key=lambda package: (package.namespace or "", package.name))


def _go(path: str, version: str) -> Package:
    namespace, _, name = path.rpartition("/")
    return Package("golang", name, version, namespace or None)


def _nearest(entries: dict, name: str, path: str) -> str | None:
    """Return where Node.js finds a package from a path: in the nearest node_modules, through a link into the workspace."""
    while True:
        candidate = f"{path}/node_modules/{name}" if path else f"node_modules/{name}"
        if candidate in entries:
            return entries[candidate]["resolved"] if entries[candidate].get("link") else candidate
        if not path:
            return None
        path = re.sub(r"(^|/)(node_modules/)?(@[^/]+/)?[^/]+$", "", path)


def node_packages(lock: dict, workspace: str) -> list[Package]:
    """Return the packages that a workspace runs with."""
    entries = lock["packages"]
    waiting, seen = [f"packages/{workspace}"], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        groups = [entries[path].get(group, {}) for group in ("dependencies", "optionalDependencies", "peerDependencies")]
        targets = [_nearest(entries, name, path) for group in groups for name in group]
        waiting += [target for target in targets if target and target not in seen and not entries[target].get("dev")]
    return sorted({_node(path, entries[path]) for path in seen if "node_modules/" in path}, key=lambda one: (one.namespace or "", one.name, one.version))


def _node(path: str, entry: dict) -> Package:
    namespace, _, name = path.rpartition("node_modules/")[2].rpartition("/")
    return Package("npm", name, entry["version"], namespace or None, licences=(entry["license"],) if entry.get("license") else ())


def read_lock(path: str) -> dict:
    """Return a package-lock.json."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def wheel_package(path: str, sha256: str) -> Package:
    """Return the package of a Python wheel."""
    with zipfile.ZipFile(path) as wheel:
        # Packages that a wheel vendors have a METADATA of their own further down.
        (name,) = [name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        metadata = email.parser.BytesParser().parsebytes(wheel.read(name), headersonly=True)
    licence = metadata.get("License-Expression") or metadata.get("License") or ""
    # Some put the whole text there.
    licence = licence.strip() if 0 < len(licence.strip()) <= 80 and "\n" not in licence.strip() else ""
    classifiers = [value.rpartition(" :: ")[2] for value in metadata.get_all("Classifier", []) if value.startswith("License :: ")]
    licences = (licence,) if licence and licence != "UNKNOWN" else tuple(sorted(classifiers))
    name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
    return Package("pypi", name, metadata["Version"], qualifiers=(("file_name", os.path.basename(path)),), licences=licences, sha256=sha256)
