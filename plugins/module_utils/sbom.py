# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bill of materials of a bundle, in CycloneDX."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass

from ansible_collections.campaign.platform.plugins.module_utils.packages import Package

try:
    from cyclonedx.contrib.license.exceptions import InvalidSpdxLicenseException
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from packageurl import PackageURL

    HAS_CYCLONEDX = True
except ImportError:
    HAS_CYCLONEDX = False


@dataclass(frozen=True)
class Image:
    """An image and what is in it."""

    key: str
    reference: str
    image_id: str
    packages: tuple[Package, ...]


def _licences(names: tuple[str, ...]) -> list:
    # An expression may stand by itself only, so of several names each is one licence.
    factory = LicenseFactory()
    if len(names) == 1:
        return [factory.make_from_string(names[0])]
    known = {licence.id or licence.name: licence for licence in map(_licence, names)}
    return [known[name] for name in sorted(known)]


def _licence(name: str):
    factory = LicenseFactory()
    try:
        return factory.make_with_id(name)
    except InvalidSpdxLicenseException:
        return factory.make_with_name(name)


def _component(package: Package) -> Component:
    purl = PackageURL(package.kind, package.namespace, package.name, package.version, dict(package.qualifiers))
    return Component(
        name=package.name,
        group=package.namespace if package.kind not in ("deb", "rpm") else None,
        version=package.version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=_licences(package.licences),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)] if package.sha256 else None,
    )


def sbom(version: str, created: datetime.datetime, images: list[Image], wheels: list[Package]) -> str:
    """Return the bill of materials as JSON. The same contents give the same text."""
    bom = Bom(metadata=BomMetaData(timestamp=created))
    root = Component(name="campaign.platform", version=version, type=ComponentType.APPLICATION, bom_ref="campaign.platform")
    bom.metadata.component = root
    components: dict[str, Component] = {}

    def add(packages) -> list[Component]:
        added = []
        for package in packages:
            component = _component(package)
            added.append(components.setdefault(component.bom_ref.value, component))
        return added

    tops = []
    for image in images:
        name, _, tag = image.reference.rpartition(":")
        container = Component(
            name=name,
            version=tag,
            type=ComponentType.CONTAINER,
            bom_ref=f"image:{image.key}",
            properties=[Property(name="campaign.platform:image_id", value=image.image_id)],
        )
        tops.append(container)
        bom.register_dependency(container, add(image.packages))
    tops += add(wheels)
    bom.components.update([*components.values(), *tops])
    bom.register_dependency(root, tops)
    # Of the contents, so that it is the same for the same bundle and another for any other.
    names = sorted(f"{component.bom_ref.value} {component.version}" for component in [*components.values(), *tops])
    identity = "\n".join([version, *names, *(image.image_id for image in images)])
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, identity)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
