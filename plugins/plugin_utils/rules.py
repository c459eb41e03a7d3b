# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check values against rules, and say what is wrong with them without showing them.

A rule is a mapping with ``hint`` (what a right value looks like; it completes "NAME must be ...") and one of:

- ``pattern``: a regular expression that has to match the whole text (ASCII classes). With it may go ``normalized`` (the text has to be in
  Unicode's normalization form KC), ``percent_encoded`` (names of the pattern's groups that hold percent-encoded UTF-8), ``ipv6`` (names of its groups that
  hold an IPv6 address other than loopback, if anything) and ``not_in`` (names that are taken; compared with the pattern's group ``name`` if it has one,
  without case). What the pattern's group ``port`` found, if anything, has to be a TCP port.
- ``minimum`` and ``maximum``: bounds of a whole number, inclusive.
- ``network``: true for an IPv4 network in CIDR notation.

A secret's rule also has ``strong``, the least length in characters of a value that cannot be guessed. The rule of a name that anyone may know has none.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any
from urllib.parse import unquote_to_bytes

from ansible_collections.campaign.platform.plugins.plugin_utils import ports

Rule = Mapping[str, Any]

_REMEDY = "Generate one: the playbook init_secrets writes a whole set."
# As in your-secret-key-here, or as a whole <your password>, ${PASSWORD} or {{ password }}.
_PLACEHOLDER = re.compile(r"your[-_ ].*here|\A\s*(<.*>|\$\{\w+\}|\{\{.*\}\})\s*\Z", re.IGNORECASE | re.DOTALL)
_FEWEST_CHARACTERS = 6
# From this least length on, a value is a password and not a name.
STRONG_LENGTH = 16
LONGEST_GUESS, BEST_SCORE = 72, 4


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return the remedy for a name that is not known."""
    spelled = {item.lower(): item for item in sorted(known)}
    close = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f"Did you mean {spelled[close[0]]}?" if close else f"Known are {', '.join(sorted(known))}."


def shape(value: str) -> str:
    """Describe a text by its length and kinds of characters only."""
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


def _is_ipv6_of_another(text: str) -> bool:
    """Return whether a text is an IPv6 address at which not the asker itself answers, without a zone."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped or address
    return not (mapped.is_loopback or mapped.is_unspecified or address.scope_id)


def _matches(text: str, rule: Rule) -> bool:
    found = re.fullmatch(rule["pattern"], text, re.ASCII)
    if not found:
        return False
    if rule.get("normalized") and not unicodedata.is_normalized("NFKC", text):
        return False
    for group in rule.get("percent_encoded", ()):
        try:
            unquote_to_bytes(found[group] or "").decode()
        except UnicodeDecodeError:
            return False
    if not all(_is_ipv6_of_another(found[group]) for group in rule.get("ipv6", ()) if found[group]):
        return False
    groups = found.groupdict()
    if groups.get("port") and not 1 <= int(groups["port"]) <= ports.LARGEST:
        return False
    named = groups.get("name") or text
    return named.lower() not in {str(name).lower() for name in rule.get("not_in", ())}


def value_problem(value: object, rule: Rule) -> str | None:
    """Return what is wrong with one value, without showing it, or None."""
    text = str(value)
    if "pattern" in rule:
        if not isinstance(value, str):
            # What YAML took for a number may have been written in another way, such as 0x1f or 012.
            return "it is not text. Put it in quotes"
        return None if _matches(text, rule) else shape(text)
    if "network" in rule:
        return None if _is_network(text) else shape(text)
    if isinstance(value, bool) or not re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text, re.ASCII):
        return shape(text)
    if not rule["minimum"] <= int(text) <= rule["maximum"]:
        return "it is out of range"
    return None


def setting_problems(values: Mapping[str, object], rules: Mapping[str, Rule], source: str, kind: str = "setting") -> list[str]:
    """Return a message for every value that its rule does not allow, and for every name without a rule, which is not a known ``kind``."""
    problems = []
    for name, value in values.items():
        if name not in rules:
            problems.append(f"{source}: {name} is not a known {kind}. {did_you_mean(str(name), rules)}")
        elif (wrong := value_problem(value, rules[name])) is not None:
            problems.append(f"{source}: {name} must be {rules[name]['hint']}, but {wrong}.")
    return problems


def _is_predictable(value: str) -> bool:
    """Return whether a text repeats itself, counts, or has few different characters."""
    repeats = any(value[period:] == value[:-period] for period in range(1, len(value) // 2 + 1))
    steps = {ord(after) - ord(before) for before, after in pairwise(value)}
    return repeats or len(steps) <= 1 or len(set(value)) < _FEWEST_CHARACTERS


def _is_guessable(value: str) -> bool:
    """Return whether zxcvbn guesses a text in less than 10^10 tries, which is less than its best score. It looks at the first 72 characters."""
    # Not before this line, because prod alone asks, and the lists of words take a moment to load.
    from zxcvbn import zxcvbn

    found: dict[str, Any] = zxcvbn(value[:LONGEST_GUESS])
    return int(found["score"]) < BEST_SCORE


def _weakness(value: str, length: int, examples: Iterable[str]) -> str | None:
    folded = value.lower()
    if _PLACEHOLDER.search(value) or any(example.lower() in folded for example in examples):
        return "is the value of an example, or a placeholder"
    if len(value) < length:
        return f"must be at least {length} characters in prod, but it has {len(value)}"
    # A name such as the one of MinIO's root may be short, and is not a password.
    if length < STRONG_LENGTH:
        return None
    if _is_predictable(value):
        return "repeats itself or follows a pattern, so it can be guessed"
    if _is_guessable(value):
        return "is made of words, names, dates or rows of keys, so it can be guessed"
    return None


def _shared(secrets: Mapping[str, str]) -> list[str]:
    owners: dict[str, list[str]] = {}
    for name, value in secrets.items():
        owners.setdefault(value, []).append(name)
    return [f"{' and '.join(names)} have the same value. Give each its own." for names in owners.values() if len(names) > 1]


def secret_problems(
    sources: Mapping[str, Mapping[str, object]], rules: Mapping[str, Rule], examples: Collection[str] = (), *, strict: bool = False
) -> list[str]:
    """Return a message for every secret that is wrong, by name.

    ``sources`` are names of places to their secrets; a later place wins over an earlier one. ``examples`` are texts of examples and placeholders: a
    value that contains one, in any case of letters, is not a secret. With ``strict``, weak values and one value for two secrets are refused too.
    """
    problems: list[str] = []
    known: dict[str, str] = {}
    for source, secrets in sources.items():
        texts = {name: value for name, value in secrets.items() if isinstance(value, str)}
        problems += [f"{source}: {name} must be a string. Put its value in quotes." for name in secrets if name not in texts]
        problems += setting_problems(texts, rules, source, "secret")
        known.update({name: value for name, value in texts.items() if "strong" in rules.get(name, {})})
        for name in texts if strict else ():
            length = rules.get(name, {}).get("strong")
            # A list of none, for one, is no value that could be guessed.
            is_value = texts[name] not in ("", rules.get(name, {}).get("default"))
            weakness = _weakness(texts[name], length, examples) if is_value and length else None
            if weakness:
                problems.append(f"{source}: {name} {weakness}. {_REMEDY}")
    return problems + (_shared(known) if strict else [])
