# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an air-gap bundle holds, and how much disk loading its images takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import bundle_archive
from ansible_collections.campaign.platform.plugins.plugin_utils.images import Plan

BundleError = bundle_archive.BundleError
MIB = 1 << 20


@dataclass(frozen=True)
class Contents:
    """What the manifest of a bundle says; sizes are in bytes."""

    # What the images run on, such as linux/amd64.
    platform: str
    images: Plan
    # By digest, each with its size and its compressed size.
    layers: Mapping[str, Mapping[str, int]]


def read(path: str) -> Contents:
    """Return the contents of a bundle. Raises BundleError on what is not a bundle, with the reason.

    Only the manifest is read, which is compared with its checksum. The module bundle_images verifies the rest before it is used.
    """
    manifest: dict[str, Any] = bundle_archive.read_manifest(path)
    images = {key: {**image, "key": key, "how": "load", "parents": []} for key, image in manifest["images"].items()}
    return Contents(manifest["platform"], images, manifest["layers"])


def needed_mb(images: Collection[Mapping[str, Any]], layers: Mapping[str, Mapping[str, int]]) -> int:
    """Return the MiB of disk that loading images takes on a host: their layers, each once, packed in the copy and unpacked in the Engine."""
    digests = {digest for image in images for digest in image["layers"]}
    return sum(layers[digest]["size"] + layers[digest]["packed"] for digest in digests) // MIB
