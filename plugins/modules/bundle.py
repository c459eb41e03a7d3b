#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write an air-gap bundle: images, collection, wheels, checksums and a bill of materials in one archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Write an air-gap bundle
version_added: 0.2.0
description:
  - Saves images from the Engine of the machine that it runs on, and writes them with a built collection and Python wheels into one tar archive,
    with C(SHA256SUMS) of every member, a manifest and a bill of materials in CycloneDX.
  - Reads no secret. The same contents give the same bytes. The archive takes its name only when it is complete.
requirements: [cyclonedx-python-lib]
options:
  path:
    description: The archive to write. Its name ends with C(.tar), and its checksum goes into a file of the same name with C(.sha256).
    type: path
    required: true
  images:
    description: References of the images by key. A digest in a reference is recorded; the bundle names the image by the tag.
    type: dict
    required: true
  collection:
    description: The built collection.
    type: path
  version:
    description: The collection's version.
    type: str
    required: true
  wheels:
    description: Directory of the wheels.
    type: path
  requirements:
    description: The requirements file that the wheels satisfy.
    type: path
  readme:
    description: Text that explains how the bundle is used.
    type: path
  npm_lock:
    description: The C(package-lock.json) that the application's images are built from.
    type: path
  npm_workspaces:
    description: Names of the workspaces that an image carries, by the image's key.
    type: dict
    default: {}
  made_by:
    description: What made the bundle, for the manifest.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Looks the images up, compares their platforms and checks the disk, and writes nothing.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Write the bundle
  campaign.platform.bundle:
    path: /srv/bundles/campaign-platform-0.1.0-linux-amd64.tar
    images: {redis: docker.io/library/redis:8.2}
    version: 0.1.0
"""

RETURN = r"""
path:
  description: The archive.
  returned: always
  type: str
sha256:
  description: Its checksum.
  returned: when it was written
  type: str
platform:
  description: What the images run on, such as C(linux/amd64).
  returned: always
  type: str
needed:
  description: Bytes of disk that making the bundle may take.
  returned: always
  type: int
"""

import datetime
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.campaign.platform.plugins.module_utils.bundle_archive import FORMAT, BundleError, check_space, file_digest, write_bundle
from ansible_collections.campaign.platform.plugins.module_utils.packages import (
    debian_packages,
    go_packages,
    node_packages,
    read_lock,
    rpm_packages,
    wheel_package,
)
from ansible_collections.campaign.platform.plugins.module_utils.saved_images import merged, take_apart
from ansible_collections.campaign.platform.plugins.module_utils.sbom import HAS_CYCLONEDX, Image, sbom


def without_digest(reference: str) -> str:
    """Return a reference by tag, as an image that was loaded has no digest of a registry."""
    name = reference.partition("@")[0]
    return name if re.search(r":[^/]+$", name) else f"{name}:latest"


def inspect(references: list[str]) -> list[dict]:
    """Return what the Engine says of each image."""
    done = subprocess.run(["docker", "image", "inspect", *references], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BundleError(f"The images are not all on this machine: {done.stderr.strip()}")
    return json.loads(done.stdout)


def common_platform(images: dict[str, dict]) -> str:
    """Return the one platform of all images."""
    platforms = {f"{image['Os']}/{image['Architecture']}" for image in images.values()}
    if len(platforms) != 1:
        raise BundleError(f"The images are for different platforms: {', '.join(sorted(platforms))}. A bundle is for one.")
    return platforms.pop()


def repack(source: str, target: str) -> None:
    """Copy a built collection without the time of its build, so that the same files give the same bytes."""
    with (
        tarfile.open(source) as old,
        open(target, "wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as new,
    ):
        for info in sorted(old, key=lambda member: member.name):
            info.mtime = info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.pax_headers = {}
            new.addfile(info, old.extractfile(info) if info.isfile() else None)


def save(ids: list[str], directory: str):
    """Take the images apart while the Engine writes them."""
    with subprocess.Popen(["docker", "save", *ids], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            return take_apart(process.stdout, directory)
        except (tarfile.TarError, KeyError, OSError) as error:
            process.kill()
            raise BundleError(f"docker save failed: {process.stderr.read().decode(errors='replace').strip() or error}") from None


def make(params: dict, inspected: dict[str, dict], platform: str) -> str:
    """Gather everything in a directory beside the archive, write the archive, and return its checksum."""
    with tempfile.TemporaryDirectory(prefix=".campaign-bundle-", dir=os.path.dirname(params["path"])) as staging:
        for name in ("images", "wheels", "collection"):
            os.mkdir(os.path.join(staging, name))
        for name, source in (("requirements.txt", params["requirements"]), ("README.md", params["readme"])):
            if source:
                shutil.copyfile(source, os.path.join(staging, name))
        if params["collection"]:
            repack(params["collection"], os.path.join(staging, "collection", os.path.basename(params["collection"])))
        wheels = []
        for name in sorted(os.listdir(params["wheels"])) if params["wheels"] else []:
            path = shutil.copyfile(os.path.join(params["wheels"], name), os.path.join(staging, "wheels", name))
            wheels.append(wheel_package(path, file_digest(path)))

        saved, layers = save(sorted({image["Id"] for image in inspected.values()}), os.path.join(staging, "images"))
        lock = read_lock(params["npm_lock"]) if params["npm_lock"] else None
        entries, contents = {}, []
        for key in sorted(inspected):
            image_id, reference = inspected[key]["Id"], f"{without_digest(params['images'][key])}-{inspected[key]['Id'][7:19]}"
            if image_id not in saved:
                raise BundleError(f"docker save wrote {key} under another id than {image_id}. Bundles need an Engine without the containerd image store.")
            held = merged(saved[image_id], layers)
            packages = debian_packages(held.files) + rpm_packages(held.files)
            packages += [module for program in held.programs.values() for module in go_packages(program)]
            # An application of somebody's own may have other workspaces.
            workspaces = [name for name in params["npm_workspaces"].get(key, []) if lock and f"packages/{name}" in lock["packages"]]
            for workspace in workspaces:
                packages += node_packages(lock, workspace)
            contents.append(Image(key, reference, image_id, tuple(packages)))
            entries[key] = {"reference": reference, "source": params["images"][key], "id": image_id, "size": held.size, "layers": saved[image_id].layers}
        created = max(image["Created"] for image in inspected.values())[:19]
        manifest = {
            "format": FORMAT,
            "version": params["version"],
            "platform": platform,
            "made_by": params["made_by"],
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "images": entries,
            "layers": {
                digest: {"size": layers[digest].size, "packed": os.path.getsize(os.path.join(staging, "images", f"{digest}.tar.gz"))}
                for digest in sorted({digest for image in saved.values() for digest in image.layers})
            },
        }
        moment = datetime.datetime.fromisoformat(created).replace(tzinfo=datetime.UTC)
        for name, text in (
            ("manifest.json", json.dumps(manifest, indent=1, sort_keys=True)),
            ("sbom.cdx.json", sbom(params["version"], moment, contents, wheels)),
        ):
            with open(os.path.join(staging, name), "w", encoding="utf-8") as file:
                file.write(text + "\n")
        return write_bundle(staging, params["path"])


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "images": {"type": "dict", "required": True},
            "collection": {"type": "path"},
            "version": {"type": "str", "required": True},
            "wheels": {"type": "path"},
            "requirements": {"type": "path"},
            "readme": {"type": "path"},
            "npm_lock": {"type": "path"},
            "npm_workspaces": {"type": "dict", "default": {}},
            "made_by": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    if not HAS_CYCLONEDX:
        module.fail_json(msg=missing_required_lib("cyclonedx-python-lib"))
    # A run that is ended tidies up as one that fails.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    params = module.params
    try:
        if not params["path"].endswith(".tar"):
            raise BundleError("path must end with .tar.")
        directory = os.path.dirname(params["path"])
        keys = sorted(params["images"])
        inspected = dict(zip(keys, inspect([params["images"][key] for key in keys]), strict=True))
        platform = common_platform(inspected)
        # Staged and written, compressed; layers that images share are counted for each.
        needed = sum(image["Size"] for image in inspected.values())
        while not os.path.isdir(directory) and module.check_mode:
            directory = os.path.dirname(directory)
        check_space(directory, needed)
        result = {"path": params["path"], "platform": platform, "needed": needed}
        if module.check_mode:
            module.exit_json(changed=True, **result)
        before = file_digest(params["path"]) if os.path.exists(params["path"]) else None
        digest = make(params, inspected, platform)
        module.exit_json(changed=digest != before, sha256=digest, **result)
    except BundleError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
