# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a virtual module that is entirely implemented as an action plugin and runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: summary
short_description: Say at the end of a deploy what is there now and what to type next
version_added: 0.3.0
description:
  - Shows the addresses, how to open them from another machine, the user and where its password stands, which containers the run changed, and the
    commands that come next. In check mode it says what a deploy would change.
  - Everything comes from the release's manifest and from what Docker Compose did. No secret is in it.
options:
  staged:
    description: What M(campaign.platform.release) returned for the release.
    type: dict
    required: true
  results:
    description: What M(community.docker.docker_compose_v2) returned in this run.
    type: list
    elements: dict
    required: true
  directory:
    description: The stack's directory on the host.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Only tells.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Say what is there now, and what to type next
  campaign.platform.summary:
    staged: "{{ staged }}"
    results: ["{{ started }}"]
    directory: /opt/campaign
"""

RETURN = r"""
msg:
  description: The text.
  type: str
  returned: always
"""
