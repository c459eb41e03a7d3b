#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pull images with credentials that are written nowhere."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_pull
short_description: Pull images, several at once, with credentials that are written nowhere
version_added: 0.2.0
description:
  - C(docker login) keeps the password readable in a file of the host, and M(community.docker.docker_image_pull) reads it from there.
    Here it goes with the request to the Engine's socket.
  - An image that is there under its reference already is not pulled again, so a reference should name a digest. One of another platform than
    the host's is an error.
options:
  references:
    description: References with a tag, a digest or both. With both, the digest decides.
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
  socket:
    description: The Engine's socket.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Says what would be pulled.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Pull an image by its digest
  campaign.platform.image_pull:
    references:
      - registry.example.com/campaign/api:1.0.0@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
"""

RETURN = r"""
pulled:
  description: References that were not there before.
  returned: success
  type: list
  elements: str
"""

import concurrent.futures
import json
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.campaign.platform.plugins.module_utils.registry import OPTIONS, image_path, sign_in, split_reference

# Between two lines of progress; a large layer is unpacked without any.
TIMEOUT = 900
AT_ONCE = 3


def inspect(engine: Engine, reference: str) -> dict | None:
    """Return what the Engine knows of an image, None where it has none."""
    try:
        return engine.get(image_path(reference))
    except EngineError as error:
        if error.status == 404:
            return None
        raise


def pull(engine: Engine, params: dict, platform: str, reference: str) -> str:
    """Pull one image; return what is wrong, or nothing."""
    repository, version = split_reference(reference)
    try:
        status, body = engine.request("POST", "/images/create", {"fromImage": repository, "tag": version}, headers=sign_in(params, reference))
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        # The status says 200 before the pull has begun; an error is a line of the progress.
        problem = next((line.get("error") or line.get("message") for line in lines if "error" in line or (status != 200 and "message" in line)), "")
        if problem:
            return f"{reference}: {problem}"
        image = inspect(engine, reference)
    except EngineError as error:
        return f"{reference}: {error.reason}"
    if image is None:
        return f"{reference}: the Engine says that it was pulled, but does not have it."
    if f"{image['Os']}/{image['Architecture']}" != platform:
        # It would count as there the next time.
        engine.request("DELETE", f"/images/{quote(image['Id'])}", {"force": "1"})
        return f"{reference}: it is for {image['Os']}/{image['Architecture']}, but the host is {platform}."
    if "@" in reference:
        # Without a name an image that nothing runs from at the moment goes with the next `docker image prune`, and a way back with it.
        engine.request("POST", f"/images/{quote(image['Id'])}/tag", {"repo": repository, "tag": f"locked-{version[7:19]}"})
    return ""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={"references": {"type": "list", "elements": "str", "required": True}, **OPTIONS},
        required_together=[("username", "password")],
        supports_check_mode=True,
    )
    params = module.params
    engine = Engine(params["socket"], TIMEOUT)
    try:
        version = engine.get("/version")
        missing = [reference for reference in params["references"] if inspect(engine, reference) is None]
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not answer: {error}. Is it running, and may this user use its socket?")
    if missing and not module.check_mode:
        platform = f"{version['Os']}/{version['Arch']}"
        with concurrent.futures.ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            problems = [problem for problem in pool.map(lambda reference: pull(engine, params, platform, reference), missing) if problem]
        if problems:
            module.fail_json(
                msg="\n- ".join(
                    ["Nothing that runs was changed. These images could not be pulled; check names, digests, credentials and certificates:", *problems]
                )
            )
    module.exit_json(changed=bool(missing), pulled=missing)


if __name__ == "__main__":
    main()
