# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verification expects of answers in JSON: JMESPath, evaluated on the controller, because the hosts need not have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.verdict import shorten, told
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import did_you_mean

_NO_LIBRARY = "the Python package jmespath is needed on this machine for checks with json. Install it, such as by: pip install jmespath"


def _calls(node: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield name and number of arguments of every function that a parsed expression calls."""
    if node["type"] == "function_expression":
        yield node["value"], len(node["children"])
    for child in node["children"]:
        # Those of a slice are numbers.
        if isinstance(child, Mapping):
            yield from _calls(child)


def query_problem(query: str) -> str | None:
    """Return what is wrong with a JMESPath expression, or None."""
    try:
        import jmespath
        from jmespath.functions import Functions
    except ImportError:
        return _NO_LIBRARY
    try:
        parsed = jmespath.compile(query).parsed
    # The library's own errors are of this class, too.
    except ValueError as error:
        return f"it is not a JMESPath expression: {shorten(str(error))}"
    # The library looks at functions only when it calls them.
    table: Mapping[str, Any] = Functions.FUNCTION_TABLE
    for name, count in _calls(parsed):
        if name not in table:
            return f"{name} is not a function of JMESPath. {did_you_mean(name, table).removesuffix('.')}"
        signature = table[name]["signature"]
        is_variadic = bool(signature) and signature[-1].get("variadic", False)
        if count < len(signature) or (count > len(signature) and not is_variadic):
            return f"the function {name} takes {len(signature)}{' or more' if is_variadic else ''} arguments, and not {count}"
    return None


def _same(one: Any, other: Any) -> bool:
    """Return whether two values of JSON are the same. To Python, true is 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str) and not isinstance(other, str):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _verdict(answer: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what was expected and what came, or None where they are the same."""
    query, asked = str(answer["query"]), answer["failure"]["expected"]
    # A check without `equals` has a condition for a query. Nothing else can be said to be null than by one, as Ansible's options have null for absent.
    wanted = True if answer.get("equals") is None else answer["equals"]
    if problem := query_problem(query):
        return f"{asked} to answer JSON with {query}", problem
    import jmespath
    from jmespath.exceptions import JMESPathError

    expected = f"{asked} to answer JSON with {query}: {shorten(json.dumps(wanted))}"
    try:
        content = json.loads(answer["text"])
    except (ValueError, RecursionError):
        return expected, f"no JSON: {shorten(answer['text']) or 'an empty answer'}"
    try:
        came = jmespath.search(query, content)
    except JMESPathError as error:
        return expected, f"the expression fails: {shorten(str(error))}"
    return None if _same(came, wanted) else (expected, shorten(json.dumps(came)))


def verified(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of the module release, which is not verified where an answer says something else, and without the answers."""
    found = {key: value for key, value in result.items() if key != "answers"}
    if any(_verdict(answer) for answer in result.get("answers") or []):
        found["is_verified"] = False
    return found


def judged(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the module's result with what its answers fail to say, and without the answers."""
    answers = result.get("answers") or []
    judged = {key: value for key, value in result.items() if key != "answers"}
    if not answers:
        return judged
    found = []
    for answer in answers:
        if verdict := _verdict(answer):
            found.append({**answer["failure"], "expected": verdict[0], "got": verdict[1]})
    failures = [*(result.get("failures") or []), *found]
    passed = int(result["passed"]) - len(found)
    kept = {item["service"] for item in failures}
    judged |= {"passed": passed, "failures": failures, "logs": {name: text for name, text in (result.get("logs") or {}).items() if name in kept}}
    if not failures:
        del judged["logs"]
        return judged
    return {**judged, "failed": True, "msg": told(failures, passed + len(failures))}
