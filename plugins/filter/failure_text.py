# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what a failed result is about."""

from __future__ import annotations

DOCUMENTATION = r"""
name: failure_text
short_description: Say in a few lines what a failed task result is about
version_added: 0.1.0
description:
  - The message, the item of the loop if there was one, and the last lines of the standard error, which
    M(community.docker.docker_compose_v2_run) keeps out of its message.
options:
  _input:
    description: Result of a task or of one item of its loop.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what failed
  ansible.builtin.fail:
    msg: "{{ ansible_failed_result | campaign.platform.failure_text }}"
"""

RETURN = r"""
_value:
  description: The text.
  type: str
"""

LINES = 15


def failure_text(result) -> str:
    """Return the text; see DOCUMENTATION."""
    item = result.get(result.get("ansible_loop_var", "item"))
    message = str(result.get("msg", "a step failed without a message"))
    lines = [f"{item}: {message}" if isinstance(item, str) else message]
    lines += str(result.get("stderr", "")).strip().splitlines()[-LINES:]
    return "\n".join(lines)


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"failure_text": failure_text}
