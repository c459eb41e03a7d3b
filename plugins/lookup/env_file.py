# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read an environment file of the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: env_file
short_description: Read an environment file such as .env.local on the controller
version_added: 0.1.0
description:
  - Returns the names and values of an environment file. A file that is not there is an empty one.
  - What different readers of such files understand differently is refused, with the line's number and the spelling to use.
    A message never shows a value.
options:
  _terms:
    description: Paths of environment files. Later files override earlier ones.
    required: true
    type: list
    elements: path
notes:
  - A line ends with a newline, or with a carriage return and a newline. Blanks are spaces and tabs. No other character separates anything.
  - C(NAME=value) is taken up to the end of the line, without surrounding blanks.
  - C(NAME='value') is taken literally.
  - In C(NAME="value") a backslash escapes the backslash, the double quote, the dollar sign, C(n) and C(r).
  - A comment stands on a line of its own.
"""

EXAMPLES = r"""
- name: Show the names that .env.local sets
  ansible.builtin.debug:
    msg: "{{ lookup('campaign.platform.env_file', '.env.local').keys() | list }}"
"""

RETURN = r"""
_list:
  description: One mapping of names to strings.
  type: list
  elements: dict
"""

import os

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.campaign.platform.plugins.plugin_utils.env_file import parse_env


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        values: dict[str, str] = {}
        for term in terms:
            path = os.path.expanduser(str(term))
            try:
                with open(path, encoding="utf-8", newline="") as file:
                    values.update(parse_env(file.read()))
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise AnsibleLookupError(f"{path} cannot be read: {type(error).__name__}. Make it a readable UTF-8 file.") from None
            except ValueError as error:
                raise AnsibleLookupError(f"{path}, {error}") from None
        return [values]
