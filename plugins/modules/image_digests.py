#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask registries which digests image references stand for now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_digests
short_description: Resolve image references to digests, as the Engine sees their registries
version_added: 0.2.0
description:
  - Asks the Engine of the host, so that its mirrors, proxies and trusted certificates count. Nothing is pulled.
  - An image that its registry does not have for the host's own platform is an error.
options:
  references:
    description: References with a tag, without a digest.
    type: list
    elements: str
    required: true
  registry:
    description: Registry that O(username) and O(password) are for, such as C(registry.example.com:5000). Docker Hub without it.
    type: str
  username:
    description: User name at O(registry).
    type: str
  password:
    description: That user's password.
    type: str
  timeout:
    description: Seconds that the Engine has for each reference.
    type: int
    default: 60
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: full
    description: Only reads.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Resolve a tag
  campaign.platform.image_digests:
    references: [registry.example.com/campaign/api:1.0.0]
"""

RETURN = r"""
digests:
  description: References to digests, of the index where there is one for several platforms. On failure those that could be resolved.
  returned: when the Engine answers
  type: dict
  sample: {"registry.example.com/campaign/api:1.0.0": "sha256:..."}
problems:
  description: References that could not be resolved to what is wrong with them.
  returned: when the Engine answers
  type: dict
platform:
  description: The host's platform.
  returned: when the Engine answers
  type: str
  sample: linux/amd64
"""

import concurrent.futures
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.campaign.platform.plugins.module_utils.registry import OPTIONS, sign_in


def resolve(engine: Engine, params: dict, platform: str, reference: str) -> tuple[str, str]:
    """Return the digest, or an empty one and what is wrong."""
    try:
        found = engine.get(f"/distribution/{quote(reference, safe='/:')}/json", headers=sign_in(params, reference))
    except EngineError as error:
        return "", f"{reference}: {error.reason}"
    # An image that is for one platform only may not say which; the pull then checks it.
    offered = {f"{item.get('os')}/{item.get('architecture')}" for item in found.get("Platforms") or [] if item.get("architecture")}
    if offered and platform not in offered:
        return "", f"{reference}: there for {', '.join(sorted(offered))}, but not for the host's {platform}."
    return found["Descriptor"]["digest"], ""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={"references": {"type": "list", "elements": "str", "required": True}, "timeout": {"type": "int", "default": 60}, **OPTIONS},
        required_together=[("username", "password")],
        supports_check_mode=True,
    )
    params = module.params
    engine = Engine(params["socket"], params["timeout"])
    try:
        version = engine.get("/version")
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not answer: {error}. Is it running, and may this user use its socket?")
    platform = f"{version['Os']}/{version['Arch']}"
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda reference: resolve(engine, params, platform, reference), params["references"]))
    asked = list(zip(params["references"], answers, strict=True))
    problems = {reference: problem for reference, (_digest, problem) in asked if problem}
    found = {"digests": {reference: digest for reference, (digest, problem) in asked if not problem}, "problems": problems, "platform": platform}
    if problems:
        header = f"These references could not be resolved for {platform}. Check names, tags, credentials and certificates:"
        module.fail_json(msg="\n- ".join([header, *problems.values()]), **found)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
