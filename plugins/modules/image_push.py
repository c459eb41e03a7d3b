#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Push images of the Engine to a registry under other names."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_push
short_description: Push images to a registry under one tag, and say which digests they have there
version_added: 0.3.0
description:
  - Asks the Engine to push, so that its proxies and trusted certificates count. The credentials go to it with each request and are kept nowhere.
  - An image that the registry has already under the tag is not a change. The names that a push needs are taken away from the Engine afterwards.
options:
  images:
    description: References of images that the Engine has, by the name that they get.
    type: dict
    required: true
  repository:
    description: What stands before each name, such as C(registry.example.com:5000/campaign/).
    type: str
    required: true
  tag:
    description: The tag that all get.
    type: str
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
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: full
    description: Says which images the registry does not have, and pushes none.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Push an image
  campaign.platform.image_push:
    images: {api: "campaign/api:0123456789ab"}
    repository: registry.example.com/campaign/
    tag: 1.0.0-0123456789ab
"""

RETURN = r"""
digests:
  description: The digests that the registry gave the images, by name. In check mode only those that were there before.
  returned: success
  type: dict
  sample: {"api": "sha256:..."}
pushed:
  description: Names of the images that are new under the tag.
  returned: success
  type: list
  elements: str
platform:
  description: The platform that the images are for.
  returned: success
  type: str
  sample: linux/amd64
"""

import json
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, message_of
from ansible_collections.campaign.platform.plugins.module_utils.registry import OPTIONS, image_path, sign_in

# Between two lines of progress.
TIMEOUT = 900


def known(engine: Engine, params: dict, reference: str) -> str | None:
    """Return the digest that a reference has in its registry, None where the registry does not know it, or does not say so."""
    try:
        found = engine.get(f"/distribution/{quote(reference, safe='/:')}/json", headers=sign_in(params, reference))
    except EngineError:
        # The push itself says what is wrong, with all that the Engine knows of it.
        return None
    return found["Descriptor"]["digest"]


def push(engine: Engine, params: dict, reference: str) -> str:
    """Push one image that has its name already and return its digest; raise ValueError with what is wrong."""
    repository, _colon, tag = reference.rpartition(":")
    # Without the header the Engine refuses, also where nobody has to sign in.
    headers = {"X-Registry-Auth": "e30="} | sign_in(params, reference)
    status, body = engine.request("POST", f"/images/{quote(repository, safe='/:')}/push", {"tag": tag}, headers=headers)
    if status != 200:
        raise ValueError(message_of(body) or f"status {status}")
    # The status says 200 before the push has begun; an error is a line of the progress.
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    if problem := next((line["error"] for line in lines if "error" in line), ""):
        raise ValueError(problem)
    digest = next((line["aux"]["Digest"] for line in lines if "Digest" in (line.get("aux") or {})), None)
    if digest is None:
        raise ValueError("the Engine says that it was pushed, but not under which digest.")
    return digest


def named(engine: Engine, source: str, reference: str) -> None:
    """Give an image the name under which it is pushed; raise ValueError with what is wrong."""
    repository, _colon, tag = reference.rpartition(":")
    image = engine.get(image_path(source))
    status, body = engine.request("POST", f"/images/{quote(image['Id'])}/tag", {"repo": repository, "tag": tag})
    if status != 201:
        raise ValueError(message_of(body) or f"status {status}")


def publish(engine: Engine, params: dict, source: str, reference: str) -> str:
    """Push one image and return its digest; raise ValueError with what is wrong."""
    try:
        had_it = known_here(engine, reference)
        named(engine, source, reference)
        try:
            return push(engine, params, reference)
        finally:
            if not had_it:
                engine.request("DELETE", f"/images/{quote(reference, safe='/:')}")
    except EngineError as error:
        raise ValueError(error.reason) from None


def known_here(engine: Engine, reference: str) -> bool:
    """Return whether the Engine has an image of that name already, which then stays."""
    status, _body = engine.request("GET", image_path(reference))
    return status == 200


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "dict", "required": True},
            "repository": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            **OPTIONS,
        },
        required_together=[("username", "password")],
        supports_check_mode=True,
    )
    params = module.params
    engine = Engine(params["socket"], TIMEOUT)
    digests: dict[str, str] = {}
    pushed: list[str] = []
    problems: list[str] = []
    try:
        version = engine.get("/version")
        for name, source in params["images"].items():
            reference = f"{params['repository']}{name}:{params['tag']}"
            before = known(engine, params, reference)
            if before is not None:
                digests[name] = before
            if module.check_mode:
                pushed += [] if before else [name]
                continue
            try:
                digests[name] = publish(engine, params, source, reference)
            except ValueError as error:
                problems.append(f"{reference}: {error}")
                continue
            if digests[name] != before:
                pushed.append(name)
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not answer: {error}. Is it running, and may this user use its socket?")
    if problems:
        module.fail_json(msg="\n- ".join(["These images could not be pushed; check names, credentials and certificates:", *problems]))
    module.exit_json(changed=bool(pushed), digests=digests, pushed=pushed, platform=f"{version['Os']}/{version['Arch']}")


if __name__ == "__main__":
    main()
