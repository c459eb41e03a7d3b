# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render a template without a copy of every variable."""

from __future__ import annotations

DOCUMENTATION = r"""
name: render
short_description: Render a template of the role
version_added: 0.3.0
description:
  - What P(ansible.builtin.template#lookup) does, without its options. That one copies every variable for each template, which took
    a third of the time that the catalogue takes, in every run.
options:
  _terms:
    description: Templates, found where P(ansible.builtin.template#lookup) finds them.
    type: list
    elements: path
    required: true
seealso:
  - plugin: ansible.builtin.template
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Show a config file
  ansible.builtin.debug:
    msg: "{{ lookup('campaign.platform.render', 'redis.conf.j2') }}"
"""

RETURN = r"""
_raw:
  description: The text of each template.
  type: list
  elements: str
"""

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import trust_as_template


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        texts = []
        for term in terms:
            path = self.find_file_in_search_path(variables, "templates", term)
            if not path:
                raise AnsibleLookupError(f"The template {term} is in none of the directories where the role's templates are looked for.")
            template = trust_as_template(self._loader.get_text_file_contents(path))
            texts.append(self._templar.template(template, escape_backslashes=False))
        return texts
