# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what images an air-gap bundle holds."""

from __future__ import annotations

DOCUMENTATION = r"""
name: bundle_plan
short_description: Read what images an air-gap bundle holds
version_added: 0.2.0
description:
  - Reads the manifest only, which is compared with its checksum. P(campaign.platform.bundle_images#module) verifies the rest before it is used.
options:
  _terms:
    description: Path of the bundle on the controller.
    required: true
    type: list
    elements: path
"""

EXAMPLES = r"""
- name: Show what images are called
  ansible.builtin.debug:
    msg: "{{ lookup('campaign.platform.bundle_plan', '/srv/bundles/campaign-platform-0.1.0-linux-amd64.tar') }}"
"""

RETURN = r"""
_list:
  description:
    - C(platform), C(images) (by key, each with C(key), C(reference), C(id), C(layers), C(pull) and C(parents)), and C(layers) (by digest,
      each with its C(size) and its size as C(packed)).
  type: list
  elements: dict
"""

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.campaign.platform.plugins.module_utils.bundle_archive import BundleError, read_manifest


def bundle_plan(path: str) -> dict:
    """Return the plan of a bundle; see DOCUMENTATION."""
    try:
        manifest = read_manifest(path)
    except BundleError as error:
        raise AnsibleLookupError(str(error)) from None
    images = {key: {**image, "key": key, "pull": False, "parents": []} for key, image in manifest["images"].items()}
    return {"platform": manifest["platform"], "images": images, "layers": manifest["layers"]}


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        return [bundle_plan(path) for path in terms]
