# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check settings against a table of rules."""

from __future__ import annotations

DOCUMENTATION = r"""
name: setting_problems
short_description: List what is wrong with a mapping of settings, by name, without showing values
version_added: 0.1.0
description:
  - Checks every value against its rule. A message names the setting, the rule and the remedy, and describes the value by its
    length and characters only, because many of them are secrets.
options:
  _input:
    description: Names to values.
    type: dict
    required: true
  rules:
    description:
      - Names to rules. A rule is a mapping of C(pattern) (a regular expression that must match the whole value) or
        C(minimum)/C(maximum) (an integer's bounds) or C(network) (true for an IPv4 network in CIDR notation) and C(hint) (what a valid value
        looks like).
      - With a pattern may stand C(normalized), whether the text must be in Unicode's normalization form KC.
    type: dict
    required: true
  source:
    description: Where the settings come from, for the message.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Check a port
  ansible.builtin.debug:
    msg: >-
      {{ {'API_PORT': 'http'} | campaign.platform.setting_problems(
           rules={'API_PORT': {'minimum': 1, 'maximum': 65535, 'hint': 'a TCP port'}}, source='.env.local') }}
"""

RETURN = r"""
_value:
  description: One message a problem; empty when all is well.
  type: list
  elements: str
"""

import difflib
import ipaddress
import re
import unicodedata


def _shape(value: str) -> str:
    if not value:
        return "it is empty"
    kinds = [
        label
        for label, pattern in (
            ("letters", r"[A-Za-z]"),
            ("digits", r"[0-9]"),
            ("blanks", r"\s"),
            ("control characters", r"[\x00-\x1f\x7f]"),
            ("other characters", r"[^A-Za-z0-9\s\x00-\x1f\x7f]"),
        )
        if re.search(pattern, value)
    ]
    return f"it is {len(value)} characters of {', '.join(kinds)}"


def _is_network(text: str) -> bool:
    try:
        ipaddress.IPv4Network(text)
    except ValueError:
        return False
    return "/" in text


def setting_problem(value, rule) -> str | None:
    """Return what is wrong with one value, without showing it."""
    text = str(value)
    if "pattern" in rule:
        if not isinstance(value, str):
            # What YAML took for a number may have been written in another way, such as 0x1f or 012.
            return "it is no text. Put it in quotes"
        wrong = not re.fullmatch(rule["pattern"], text, re.ASCII) or (rule.get("normalized") and not unicodedata.is_normalized("NFKC", text))
        return _shape(text) if wrong else None
    if "network" in rule:
        return None if _is_network(text) else _shape(text)
    if isinstance(value, bool) or not re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text, re.ASCII):
        return _shape(text)
    if not rule["minimum"] <= int(text) <= rule["maximum"]:
        return "it is out of range"
    return None


def setting_problems(values, rules, source: str) -> list[str]:
    """Return a message for every problem; see DOCUMENTATION."""
    problems = []
    for name, value in values.items():
        if name not in rules:
            spelled = {str(known).lower(): known for known in rules}
            close = difflib.get_close_matches(str(name).lower(), spelled, n=1)
            remedy = f"Did you mean {spelled[close[0]]}?" if close else f"Known are {', '.join(rules)}."
            problems.append(f"{source}: {name} is not a known setting. {remedy}")
        elif (wrong := setting_problem(value, rules[name])) is not None:
            problems.append(f"{source}: {name} must be {rules[name]['hint']}, but {wrong}.")
    return problems


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"setting_problems": setting_problems}
