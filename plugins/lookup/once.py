# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render a variable once a task."""

from __future__ import annotations

DOCUMENTATION = r"""
name: once
short_description: Render a variable once a task, however often it is asked for
version_added: 0.3.0
description:
  - What P(ansible.builtin.vars#lookup) does, with a memory. Ansible renders a variable, and every variable in it, each time that an
    expression mentions it; the catalogue mentions the secrets and the images' references in each service.
  - For variables that stay the same throughout a task. One that depends on a loop's item, or on what the task itself registers, is
    not for this lookup.
  - Ansible runs each task for each host in a process of its own, and that is how long the memory lasts. In the process that starts
    the others nothing is remembered.
options:
  _terms:
    description: Names of variables.
    type: list
    elements: str
    required: true
seealso:
  - plugin: ansible.builtin.vars
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Render what is slow to render once
  ansible.builtin.debug:
    msg: "{{ lookup('campaign.platform.once', 'stack_published_ports') }}"
"""

RETURN = r"""
_raw:
  description: The variables' values.
  type: list
  elements: raw
"""

import multiprocessing

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

_rendered: dict[tuple[str | None, str], object] = {}


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        return [self._value(str(term), variables) for term in terms]

    def _value(self, name: str, variables):
        key = (variables.get("inventory_hostname"), name)
        if key in _rendered:
            return _rendered[key]
        if name not in variables:
            raise AnsibleLookupError(f"There is no variable {name}.")
        value = self._templar.template(variables[name])
        if multiprocessing.parent_process() is not None:
            _rendered[key] = value
        return value
