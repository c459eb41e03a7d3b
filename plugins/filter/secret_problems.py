# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check secrets against a table of rules, and in prod for strength."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret_problems
short_description: List what is wrong with secrets, by name, without showing values
version_added: 0.2.0
description:
  - Checks the secrets of every source against their rules, as P(campaign.platform.setting_problems#filter) does. A secret is a string.
  - Where strength is asked for, refuses values that are short, predictable or known from an example, and one value for two secrets.
options:
  _input:
    description: Names of sources to their secrets. A later source wins over an earlier one.
    type: dict
    required: true
  rules:
    description:
      - Names of secrets to rules. Beside C(pattern) and C(hint), a rule has C(strong), the length that a strong value has at least. A rule
        without it is about a name that anyone may know.
    type: dict
    required: true
  examples:
    description: Texts that stand in examples and placeholders. A value that contains one, in any case of letters, is no secret.
    type: list
    elements: str
    default: []
  strict:
    description: Whether to ask for strength.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Check a password
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: >-
      {{ {'the vault': {'password': 'changeme-changeme'}} | campaign.platform.secret_problems(
           rules={'password': {'pattern': '.{8,}', 'hint': 'at least 8 characters', 'strong': 16}}, examples=['changeme'], strict=true) }}
"""

RETURN = r"""
_value:
  description: One message a problem; empty when all is well.
  type: list
  elements: str
"""

import re
from itertools import pairwise

from ansible_collections.campaign.platform.plugins.filter.setting_problems import setting_problems

_REMEDY = "Generate one: the playbook init_secrets writes a whole set."
# As in your-secret-key-here, or as a whole <your password>, ${PASSWORD} or {{ password }}.
_PLACEHOLDER = re.compile(r"your[-_ ].*here|\A\s*(<.*>|\$\{\w+\}|\{\{.*\}\})\s*\Z", re.IGNORECASE | re.DOTALL)
_FEWEST_CHARACTERS = 6


def _predictable(value: str) -> bool:
    """Tell a text that repeats itself, counts, or has next to no different characters."""
    repeats = any(value[period:] == value[:-period] for period in range(1, len(value) // 2 + 1))
    steps = {ord(after) - ord(before) for before, after in pairwise(value)}
    return repeats or len(steps) <= 1 or len(set(value)) < _FEWEST_CHARACTERS


def _weakness(value: str, length: int, examples) -> str | None:
    folded = value.lower()
    if _PLACEHOLDER.search(value) or any(example.lower() in folded for example in examples):
        return "is the value of an example, or a placeholder"
    if len(value) < length:
        return f"must be at least {length} characters in prod, but it has {len(value)}"
    # A login such as the one of MinIO's root has no length to speak of, and is no password.
    if length >= 16 and _predictable(value):
        return "repeats itself or follows a pattern, so it can be guessed"
    return None


def _shared(secrets: dict[str, str]) -> list[str]:
    owners: dict[str, list[str]] = {}
    for name, value in secrets.items():
        owners.setdefault(value, []).append(name)
    return [f"{' and '.join(names)} have the same value. Give each its own." for names in owners.values() if len(names) > 1]


def secret_problems(sources, rules, examples=(), strict: bool = False) -> list[str]:
    """Return a message for every problem; see DOCUMENTATION."""
    problems: list[str] = []
    known: dict[str, str] = {}
    for source, secrets in sources.items():
        texts = {name: value for name, value in secrets.items() if isinstance(value, str)}
        problems += [f"{source}: {name} must be a string. Put its value in quotes." for name in secrets if name not in texts]
        problems += setting_problems(texts, rules, source)
        known.update({name: value for name, value in texts.items() if "strong" in rules.get(name, {})})
        for name in texts if strict else ():
            length = rules.get(name, {}).get("strong")
            weakness = texts[name] and length and _weakness(texts[name], length, examples)
            if weakness:
                problems.append(f"{source}: {name} {weakness}. {_REMEDY}")
    return problems + (_shared(known) if strict else [])


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"secret_problems": secret_problems}
