# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role's arguments are taken for, and what is said of those that are wrong."""

import pytest
from ansible_collections.campaign.platform.plugins.plugin_utils.arguments import check, misspelled
from program import declare, problems_of

PORT = {"type": "list", "elements": "dict", "options": {"port": {"type": "int", "required": True}}}
SERVER = {"type": "dict", "options": {"host": {"type": "str", "required": True}, "tls": {"type": "bool"}, "port": {"type": "int"}}}


def checked(value, option, rules=None):
    return check({"v": option}, {"v": value}, lambda _name: value, str, rules=rules or {})


@pytest.mark.parametrize(
    ("value", "option", "told"),
    [
        ("text", {"type": "str"}, None),
        (5, {"type": "str"}, None),
        (1.5, {"type": "str"}, "Put it in quotes"),
        (True, {"type": "str"}, "Put it in quotes"),
        (None, {"type": "str"}, "Remove it or give it a value"),
        ("5", {"type": "int"}, None),
        ("secret", {"type": "int"}, "a whole number, but it is text"),
        ("1.0", {"type": "int"}, "a whole number, but it is text"),
        (True, {"type": "int"}, "true or false"),
        ("secret", {"type": "bool"}, "true or false, but it is text"),
        (2, {"type": "bool"}, "true or false, but it is a number"),
        (0.5, {"type": "bool"}, "true or false, but it is a number"),
        (0.5, {"type": "int"}, "a whole number, but it is a number"),
        (float("inf"), {"type": "int"}, "a whole number, but it is a number"),
        ("6 0", {"type": "int"}, "a whole number, but it is text"),
        ("/srv/a", {"type": "path"}, None),
        ("~/a", {"type": "path"}, None),
        ("srv/secret", {"type": "path"}, "Begin it with /"),
        ("/srv/../secret", {"type": "path"}, "leave out every .. in it"),
        ("/srv/secret\n", {"type": "path"}, "an absolute path"),
        ("secret", {"type": "str", "choices": ["a", "b"]}, "one of a, b"),
        ("secret", {"type": "list", "elements": "str"}, "a list, but it is text"),
        (["secret"], {"type": "dict"}, "a mapping of names to values, but it is a list"),
        ([["secret"]], {"type": "list", "elements": "str"}, "v[0] must be text, but it is a list"),
        ([{"port": 1}], PORT, None),
        ([{"port": "secret"}], PORT, "v[0].port must be a whole number"),
        ([{}], PORT, "v[0].port is missing"),
        ([{"port": 1, "prot": "secret"}], PORT, "v[0].prot is not known. Did you mean port?"),
        ({"host": "a"}, SERVER, None),
        ({"host": "a", "tls": "no"}, SERVER, None),
        ({"host": "a", "tls": None}, SERVER, None),
        ({"tls": True}, SERVER, "v.host is missing. It must be text."),
        ({"host": None}, SERVER, "v.host is missing"),
        ({"host": "a", "tls": "secret"}, SERVER, "v.tls must be true or false"),
        ({"host": "a", "hosst": "secret"}, SERVER, "v.hosst is not known. Did you mean host?"),
    ],
)
def test_a_value_is_judged_by_name(value, option, told):
    problems = checked(value, option).problems
    if told is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert told in problems[0]
        assert problems[0].startswith("v")
        assert "secret" not in problems[0]


@pytest.mark.parametrize(
    ("value", "option", "coerced"),
    [
        *[(word, {"type": "bool"}, True) for word in (True, "true", "True", "yes", "on", "1", "t", "y", 1)],
        *[(word, {"type": "bool"}, False) for word in (False, "false", "FALSE", "no", "off", "0", "f", "n", 0)],
        ("8080", {"type": "int"}, 8080),
        ("-1", {"type": "int"}, -1),
        (8080, {"type": "int"}, 8080),
        # What an expression makes of 120 / 2, and what a file of variables has blanks around.
        (60.0, {"type": "int"}, 60),
        (" +60 ", {"type": "int"}, 60),
        (" false ", {"type": "bool"}, False),
        (1.0, {"type": "bool"}, True),
        (5, {"type": "str"}, "5"),
        ("5", {"type": "str"}, "5"),
        ([1, "2"], {"type": "list", "elements": "str"}, ["1", "2"]),
        ([{"port": "1"}], PORT, [{"port": 1}]),
        ({"host": 10, "tls": "off", "port": "5432"}, SERVER, {"host": "10", "tls": False, "port": 5432}),
        # What is empty is as good as left out.
        ({"host": "a", "port": None}, SERVER, {"host": "a"}),
    ],
)
def test_a_value_is_coerced_as_an_argument_spec_does(value, option, coerced):
    found = checked(value, option)
    assert found.problems == []
    assert found.values == {"v": coerced}
    assert repr(found.values["v"]) == repr(coerced)


def test_what_is_missing_and_what_comes_later():
    options = {"a": {"type": "str", "required": True, "choices": ["x", "y"]}, "b": {"type": "int"}, "c": {"required": True}}
    found = check(options, {}, lambda name: name, str, rules={}, later=["c"])
    assert (found.values, found.problems) == ({}, ["a is missing. Set it to text, one of x, y."])


def test_a_value_that_cannot_be_rendered_is_reported_by_name():
    def render(_name):
        raise ValueError("secret")

    found = check({"v": {"type": "str"}}, {"v": 1}, render, lambda error: type(error).__name__, rules={})
    assert (found.values, found.problems) == ({}, ["v cannot be used: ValueError"])


def test_whatever_is_wrong_with_an_argument_the_next_one_is_looked_at():
    def render(name):
        if name == "broken":
            raise ValueError
        return "x"

    options = {name: {"required": True} for name in ("later", "missing", "broken", "good")}
    found = check(options, {"broken", "good"}, render, lambda error: type(error).__name__, rules={}, later=["later"])
    assert found.values == {"good": "x"}
    assert found.problems == ["missing is missing. Set it to text.", "broken cannot be used: ValueError"]


@pytest.mark.parametrize(
    ("value", "option", "rules", "told"),
    [
        (80, {"type": "int"}, {"v": {"minimum": 1, "maximum": 65535, "hint": "a port"}}, []),
        (0, {"type": "int"}, {"v": {"minimum": 1, "maximum": 65535, "hint": "a port"}}, ["v must be a port, but it is out of range."]),
        (
            ["a", "B"],
            {"type": "list", "elements": "str"},
            {"v": {"pattern": "[a-z]", "hint": "a letter"}},
            ["v[1] must be a letter, but it is 1 characters of letters."],
        ),
        ({"host": "a", "port": 0}, SERVER, {"v.port": {"minimum": 1, "maximum": 9, "hint": "a port"}}, ["v: port must be a port, but it is out of range."]),
        ({"host": "a"}, SERVER, {"v.port": {"minimum": 1, "maximum": 9, "hint": "a port"}}, []),
        ([{"port": 0}], PORT, {"v.port": {"minimum": 1, "maximum": 9, "hint": "a port"}}, ["v: port must be a port, but it is out of range."]),
        (
            ["10.0.0.0/8", "10.0.0.1"],
            {"type": "list", "elements": "str"},
            {"v": {"network": True, "hint": "a network"}},
            ["v[1] must be a network, but it is 8 characters of digits, other characters."],
        ),
    ],
)
def test_rules_of_values_and_keys_are_asked(value, option, rules, told):
    assert checked(value, option, rules).problems == told


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("stack_frontend_prot", "stack_frontend_port"),
        ("stack_genrate_secrets", "stack_generate_secrets"),
        ("stack_hotreload", "stack_hot_reload"),
        ("stack_owner", None),
        ("stack_team_contact", None),
        ("frontend_prot", None),
        ("stack_frontend_port", None),
    ],
)
def test_a_variable_that_is_close_to_an_argument_is_misspelled(name, meant):
    problems = problems_of({name: 8080, "stack_generate_secrets": True, "stack_generated_secrets_file": "/nowhere/generated.json"})
    assert problems == ([] if meant is None else [f"{name} is not a variable of the role stack. Did you mean {meant}?"])


def test_a_private_variable_is_not_looked_at():
    assert list(misspelled({"__stack_hot_relod": 1}, {"stack_hot_reload": {}}, "stack_")) == []


@pytest.mark.parametrize(("given", "taken"), [("false", False), ("no", False), ("true", True), (True, True)])
def test_a_boolean_of_the_command_line_is_one(given, taken):
    # As -e stack_hot_reload=false gives it.
    declared, _renderer, _problems = declare({"stack_hot_reload": given})
    assert declared.arguments["stack_hot_reload"] is taken
    assert declared.hot_reload is taken
