# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Spell a URL with credentials."""

from __future__ import annotations

DOCUMENTATION = r"""
name: service_url
short_description: Spell a URL with credentials of any characters
version_added: 0.1.0
description:
  - Percent-encodes user and password as RFC 3986 asks for in the userinfo part. Jinja's own filter leaves the slash as it is,
    which ends the host's part of the URL.
options:
  _input:
    description: User name.
    type: str
    required: true
  password:
    description: Password.
    type: str
    required: true
  location:
    description: What stands behind the C(@), such as C(postgres:5432/campaign_db).
    type: str
    required: true
  scheme:
    description: The URL's scheme.
    type: str
    required: true
seealso:
  - name: RFC 3986, userinfo
    description: The characters that may stand unencoded.
    link: https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1
"""

EXAMPLES = r"""
- name: Show a URL
  ansible.builtin.debug:
    msg: "{{ 'me' | campaign.platform.service_url(password='a/b', location='postgres:5432/db', scheme='postgres') }}"
"""

RETURN = r"""
_value:
  description: The URL.
  type: str
"""

from urllib.parse import quote


def service_url(user: str, password: str, location: str, scheme: str) -> str:
    """Return the URL; see DOCUMENTATION."""
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{location}"


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"service_url": service_url}
