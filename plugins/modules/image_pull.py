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
  - An image that a digest names gets a tag C(locked-) with the digest's first twelve digits, also where it is there already and lost that tag.
    Without a name, it goes with the next C(docker image prune) as soon as nothing runs from it, and a way back with it.
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
extends_documentation_fragment: [campaign.platform.engine]
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
tagged:
  description: References that were there, but without their tag.
  returned: success
  type: list
  elements: str
"""

import concurrent.futures
import json
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, message_of
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


def lock_of(reference: str) -> tuple[str, str] | None:
    """Return repository and tag that keep an image of a digest, None for a reference without one."""
    repository, version = split_reference(reference)
    return (repository, f"locked-{version[7:19]}") if "@" in reference else None


def has_lock(engine: Engine, reference: str, image: dict) -> bool:
    """Return whether an image has the tag that keeps it, or needs none."""
    lock = lock_of(reference)
    if lock is None:
        return True
    tagged = inspect(engine, ":".join(lock))
    return tagged is not None and tagged["Id"] == image["Id"]


def tag(engine: Engine, reference: str, image: dict) -> str:
    """Give an image of a digest the tag that keeps it; return what is wrong, or nothing."""
    lock = lock_of(reference)
    if lock is None:
        return ""
    status, body = engine.request("POST", f"/images/{quote(image['Id'])}/tag", {"repo": lock[0], "tag": lock[1]})
    return "" if status == 201 else f"{reference}: it could not be tagged {lock[1]}: {message_of(body)}"


def problem_of(status: int, body: bytes) -> str:
    """Return what is wrong with a pull, or nothing. The status says 200 before the pull has begun; an error is a line of the progress."""
    if status != 200:
        return message_of(body) or f"status {status}"
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    return next((line["error"] for line in lines if "error" in line), "")


def pull(engine: Engine, params: dict, platform: str, reference: str) -> str:
    """Pull one image; return what is wrong, or nothing."""
    repository, version = split_reference(reference)
    try:
        problem = problem_of(*engine.request("POST", "/images/create", {"fromImage": repository, "tag": version}, headers=sign_in(params, reference)))
        if problem:
            return f"{reference}: {problem}"
        image = inspect(engine, reference)
        if image is None:
            return f"{reference}: the Engine says that it was pulled, but does not have it."
        if f"{image['Os']}/{image['Architecture']}" != platform:
            # It would count as there the next time.
            engine.request("DELETE", f"/images/{quote(image['Id'])}", {"force": "1"})
            return f"{reference}: it is for {image['Os']}/{image['Architecture']}, but the host is {platform}."
        return tag(engine, reference, image)
    except EngineError as error:
        return f"{reference}: {error.reason}"
    except ValueError:
        return f"{reference}: the Engine's answer is not JSON."


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
        found = {reference: inspect(engine, reference) for reference in params["references"]}
        there = {reference: image for reference, image in found.items() if image}
        missing = [reference for reference in found if reference not in there]
        untagged = [reference for reference, image in there.items() if not has_lock(engine, reference, image)]
        problems = [] if module.check_mode else [problem for problem in (tag(engine, reference, there[reference]) for reference in untagged) if problem]
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not answer: {error}. Is it running, and may this user use its socket?")
    platform = f"{version['Os']}/{version['Arch']}"
    if missing and not module.check_mode:
        with concurrent.futures.ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            problems += [problem for problem in pool.map(lambda reference: pull(engine, params, platform, reference), missing) if problem]
    if problems:
        header = f"Nothing that runs was changed. These images could not be pulled for {platform}; check names, digests, credentials and certificates:"
        module.fail_json(msg="\n- ".join([header, *problems]))
    module.exit_json(changed=bool(missing or untagged), pulled=missing, tagged=untagged)


if __name__ == "__main__":
    main()
