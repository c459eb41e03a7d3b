#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify an air-gap bundle and take images out of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_images
short_description: Take images out of an air-gap bundle
version_added: 0.2.0
description:
  - Compares the archive and every member with their checksums, and refuses whatever does not belong into a bundle. Only then it writes the
    named images as an archive that C(docker load) reads.
options:
  bundle:
    description: The archive. Its checksum lies beside it, with C(.sha256) after the name.
    type: path
    required: true
  images:
    description: Keys of the images.
    type: list
    elements: str
    required: true
  path:
    description: The archive to write.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Verifies, and writes nothing.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Take two images out
  campaign.platform.bundle_images:
    bundle: /srv/bundles/campaign-platform-0.1.0-linux-amd64.tar
    images: [redis, minio]
    path: /var/tmp/images.tar
"""

RETURN = r"""
size:
  description: Size of the archive that was written.
  returned: when it was written
  type: int
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils.bundle_archive import BundleError, check_space, verify, write_docker_archive


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "bundle": {"type": "path", "required": True},
            "images": {"type": "list", "elements": "str", "required": True},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if module.check_mode:
            verify(params["bundle"])
            module.exit_json(changed=True)
        if os.path.exists(params["bundle"]):
            check_space(os.path.dirname(params["path"]), os.path.getsize(params["bundle"]))
        module.exit_json(changed=True, size=write_docker_archive(params["bundle"], params["images"], params["path"]))
    except BundleError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
