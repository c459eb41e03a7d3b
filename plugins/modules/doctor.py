# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a virtual module that is entirely implemented as an action plugin. On the host it runs the module status.

from __future__ import annotations

DOCUMENTATION = r"""
module: doctor
short_description: Find out what is wrong with a stack and its host
version_added: 0.4.0
description:
  - Gathers the status as M(campaign.platform.status) does, judges it by named checks, and tells what each found with what to do about it. A finding is
    a failure or a warning, and a healthy host has none. The task itself succeeds, whatever is found, unless it is O(strict).
  - The checks are C(engine), C(compose), C(release) (there is one, and no deploy is unfinished), C(lock), C(services), C(jobs), C(restarts), C(oom), C(memory),
    C(ports), C(disk), C(clock), C(dns), C(secrets), C(drift), C(certificates), C(metrics) and C(backup).
  - Nothing is changed.
options:
  directory:
    description: The stack's directory on the host.
    type: path
    required: true
  skip:
    description: Names of checks to leave out.
    type: list
    elements: str
    default: []
  disk:
    description: From how many percent of bytes or inodes on there is a warning, and from how many on a failure. V([85, 95]) without it.
    type: list
    elements: int
  memory:
    description: As O(disk), for the memory of the host, and for that of a service of its limit, which is never more than a warning. V([90, 97]) without it.
    type: list
    elements: int
  metric:
    description: As O(disk), for metrics that have a limit. V([80, 95]) without it.
    type: list
    elements: int
  certificate_days:
    description: With fewer days left, a certificate is a warning, and a failure. V([30, 7]) without it.
    type: list
    elements: int
  clock:
    description: Seconds that the host's clock may differ from that of the machine that runs Ansible. V(60) without it.
    type: int
  socket:
    description: The Engine's socket. V(/var/run/docker.sock) without it.
    type: path
  strict:
    description: Fail where a finding is a failure, with the text as the message and without the other values.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Only reads.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Find out what is wrong
  campaign.platform.doctor:
    directory: /opt/campaign
    skip: [clock]
  register: found

- name: Stop where something is wrong
  campaign.platform.doctor:
    directory: /opt/campaign
    strict: true
"""

RETURN = r"""
findings:
  description: Each finding with C(check), C(severity) (V(failure) or V(warning)), C(seen) and C(remedy), failures first.
  type: list
  elements: dict
  returned: always
failures:
  description: Number of findings that are failures.
  type: int
  returned: always
text:
  description: The findings as lines of text.
  type: str
  returned: always
status:
  description: What was judged, as M(campaign.platform.status) returns it.
  type: dict
  returned: always
"""
