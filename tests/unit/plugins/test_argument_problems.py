# SPDX-License-Identifier: GPL-3.0-or-later
"""What argument_problems says of a value; the tests of bad input run it with whole roles."""

import pytest
from ansible_collections.campaign.platform.plugins.lookup.argument_problems import value_problems

PORT = {"type": "list", "elements": "dict", "options": {"port": {"type": "int", "required": True}}}


@pytest.mark.parametrize(
    ("value", "option", "told"),
    [
        ("text", {"type": "str"}, None),
        (5, {"type": "str"}, None),
        (1.5, {"type": "str"}, "Put it in quotes"),
        ("5", {"type": "int"}, None),
        ("secret", {"type": "int"}, "a whole number, but it is text"),
        (True, {"type": "int"}, "true or false"),
        ("false", {"type": "bool"}, "-e '{\"v\": false}'"),
        ("/srv/a", {"type": "path"}, None),
        ("srv/secret", {"type": "path"}, "Begin it with /"),
        ("secret", {"type": "str", "choices": ["a", "b"]}, "one of a, b"),
        ([{"port": 1}], PORT, None),
        ([{"port": "secret"}], PORT, "v[0].port must be a whole number"),
        ([{}], PORT, "v[0].port is missing"),
        ([{"port": 1, "prot": "secret"}], PORT, "v[0].prot is not known. Did you mean port?"),
    ],
)
def test_a_value_is_judged_by_name(value, option, told):
    problems = list(value_problems("v", value, option))
    if told is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert told in problems[0]
        assert "secret" not in problems[0]
