#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell what is deployed on a host, what runs of it, and on what."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status
short_description: Tell what is deployed on a host and what runs of it
version_added: 0.4.0
description:
  - Reads the manifest of the release that is current below the stack's directory, and asks the Docker Engine and the kernel what there is of it. Nothing
    is changed on the host.
  - The commands of the release's metrics are run in the containers of their services.
  - A host whose Engine does not answer, and one without a release, have a status too. RV(status.not_known) says what could not be found out.
  - RV(text) has it for a person. On demand it is also written to files of the controller, and a question about it is answered.
options:
  directory:
    description: The stack's directory on the host.
    type: path
    required: true
  sizes:
    description: Whether to measure the volumes. The Engine reads all of their files for it, which takes as long as they are large.
    type: bool
    default: false
  json:
    description: File of the controller to write the status to, as JSON. Only the user who runs Ansible can read a new one. In check mode it is not written.
    type: path
  page:
    description: File of the controller to write the status to, as a page for a browser that needs nothing else. As O(json).
    type: path
  query:
    description: >-
      A question to the status in JMESPath (U(https://jmespath.org)), such as C(services[?health!='healthy'].name). RV(answer) is the answer, and so is
      RV(text), as JSON.
    type: str
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: full
    description: Only reads, and writes no file.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Gather the status, and write it as a page
  campaign.platform.status:
    directory: /opt/campaign
    page: "status-{{ inventory_hostname }}.html"
  register: found

- name: Show it
  ansible.builtin.debug:
    msg: "{{ found.text }}"

- name: Ask which services are not healthy
  campaign.platform.status:
    directory: /opt/campaign
    query: services[?health!='healthy'].name
"""

RETURN = r"""
status:
  description: The status.
  type: dict
  returned: always
  contains:
    schema:
      description: Version of this structure, V(1). Keys may be added to a version, and none is taken away.
      type: int
    at:
      description: When it was gathered. Times are in UTC, in the form of RFC 3339.
      type: str
    directory:
      description: The stack's directory.
      type: str
    project:
      description: The Compose project, or null.
      type: str
    release:
      description: The current release with C(id), C(since) (when it was activated), C(variant) (V(local) or V(prod)) and C(error), or null where there is none.
      type: dict
    attempted:
      description: As RV(status.release), for a release whose deploy runs, or did not end with success.
      type: dict
    lock:
      description: >-
        Who works on the stack, with C(user), C(controller), C(machine), C(pid), C(run), C(since), C(release), C(age_seconds) (of the last sign of life) and
        C(is_alive), or null.
      type: dict
    unfinished:
      description: >-
        A restore or an upgrade of PostgreSQL that is exchanging data, or was cut off while it did, with C(what) and C(remedy), or null. No other run may start
        meanwhile.
      type: dict
    history:
      description: The last ten events of the stack's history, the newest first, with C(time), C(event), C(release), C(user), C(controller) and C(commit).
      type: list
    kept:
      description: Other releases on the host, the newest first, with C(id) and C(staged).
      type: list
    host:
      description: >-
        C(name), C(memory) (C(total) and C(available) in bytes), C(clock_synchronised) (null where the kernel does not say), C(dns) (C(nameservers) and
        C(localhost_error)).
      type: dict
    engine:
      description: C(version), C(api_version) and C(data_root), or null where it does not answer.
      type: dict
    engine_error:
      description: Why the Engine does not answer, or null.
      type: str
    compose:
      description: Version of Docker Compose, or null.
      type: str
    services:
      description:
        - Each service of the release with C(name), C(state) (the Engine's word, or V(missing)), C(health) (V(healthy), V(starting), V(unhealthy), V(none) for
          one without a healthcheck, null for one that does not run), C(health_output), C(container), C(image) (its reference), C(image_id) (what runs),
          C(image_wanted) (what the reference stands for on the host), C(image_matches), C(started), C(up_seconds), C(exit_code), C(error), C(restarts),
          C(oom_killed), C(oom_kills) (processes that the kernel ended for want of memory since the container started), C(memory_bytes) and
          C(memory_limit_bytes) (null without a limit).
      type: list
    jobs:
      description: Each job of the release with C(name), C(state), C(exit_code) and C(finished).
      type: list
    ports:
      description: Each port of the host with C(service), C(address), C(port), C(published) and C(accepts) (whether a connection is accepted).
      type: list
    volumes:
      description: Each volume of the project with C(name), C(path), C(size_bytes) (null without O(sizes)) and C(mount).
      type: list
    filesystems:
      description: >-
        Each file system that the stack is on with C(mount), C(holds), C(bytes) and C(inodes) (both with C(used), C(free) and C(percent); C(inodes) is null
        where there is no fixed number of them).
      type: list
    metrics:
      description: Each metric of the release with C(service), C(name), C(value), C(limit), C(expect), C(remedy) and C(error).
      type: list
    certificates:
      description: Each certificate that the release serves with C(service), C(server_name), C(expires), C(days) and C(error).
      type: list
    backup:
      description: >-
        The backups of the stack with C(repository), C(last_run), C(last_success), C(age_seconds) (of the newest whole set), C(last_drill),
        C(drill_age_seconds) and C(recovery_seconds) (of the last drill that went well), C(moment_drill_age_seconds) and C(moment_recovery_seconds) (of the
        last drill of a moment that went well), C(sets) and C(findings), or null where none were set up.
      type: dict
    drift:
      description: >-
        What is not as the release has it, each with C(service) (or null), C(kind) (V(container), V(definition), V(image), V(name), V(surplus), V(config),
        V(secret), V(stale) (a container that has the old content of a file) or V(release)) and C(what), which holds no value.
      type: list
    not_known:
      description: What could not be found out, each with C(what) and C(why).
      type: list
text:
  description: The status as lines of text.
  type: str
  returned: always
answer:
  description: The answer to O(query).
  type: raw
  returned: with O(query)
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils import status
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine


def main() -> None:
    """Entry point."""
    spec = {
        "directory": {"type": "path", "required": True},
        "sizes": {"type": "bool", "default": False},
        # Those that the action plugin acts on.
        "json": {"type": "path"},
        "page": {"type": "path"},
        "query": {"type": "str"},
        "socket": {"type": "path", "default": "/var/run/docker.sock"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    found = status.gather(Engine(module.params["socket"]), module.params["directory"], sizes=module.params["sizes"], now=time.time())
    module.exit_json(changed=False, status=found)


if __name__ == "__main__":
    main()
