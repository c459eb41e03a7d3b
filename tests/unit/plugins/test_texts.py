# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written for Docker Compose comes back as it was."""

from urllib.parse import unquote, urlsplit

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.lookup.env_file import parse_env
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import TextError, service_url, to_compose, to_env_file

HOSTILE = [
    "",
    " ",
    " leading and trailing ",
    "a b",
    "a\tb",
    "line\nline",
    "line\r\nline",
    "trailing newline\n",
    "$HOME",
    "${HOME}",
    "$$",
    "c$HOME",
    "`id`",
    "$(id)",
    '"',
    "'",
    "'\"'",
    "\\",
    "\\n",
    "\\\\",
    "\\$x",
    "a#b",
    "a #b",
    "#",
    "a=b",
    "=",
    "a:b",
    "a: b",
    "{{ x }}",
    "{% x %}",
    "%41",
    "a/b@c:d?e&f",
    "ü€😀",
    "1e3",
    "0o17",
    "08",
    "1E5",
    "0x1f",
    "no",
    "~",
    "null",
    "- a",
    "*a",
    "&a",
    "!a",
    "|",
    ">",
    '{"a": 1}',
    "-----BEGIN KEY-----\nabc=\n-----END KEY-----\n",
]
by_value = pytest.mark.parametrize("value", HOSTILE, ids=repr)


@by_value
def test_an_environment_file_brings_every_value_through(value):
    assert parse_env(to_env_file({"A": value, "B": "next"})) == {"A": value, "B": "next"}


@by_value
def test_yaml_brings_every_value_through(value):
    assert yaml.safe_load(to_compose({"a": [value], "b": {"c": value}})) == {"a": [value], "b": {"c": value}}


@pytest.mark.parametrize(
    "value",
    [
        "1e3",
        "0o17",
        "08",
        "1E5",
        "0x1f",
        "no",
        "n",
        "y",
        "Yes",
        "on",
        "Off",
        "TRUE",
        "False",
        "inf",
        "NaN",
        "~",
        "null",
        "1",
        "1.5",
        ".inf",
        "2024-01-01",
        "12:30",
    ],
)
def test_what_a_reader_could_take_for_a_number_is_quoted(value):
    assert to_compose({"a": value}) == f'---\na: "{value}"\n'


def test_types_stay_types():
    assert to_compose({"a": 1, "b": True, "c": None, "d": "1"}) == '---\na: 1\nb: true\nc: null\nd: "1"\n'


def test_compose_refuses_nul_by_its_path_without_showing_the_value():
    with pytest.raises(TextError, match=r"services\.api\.command\.1 holds a NUL") as caught:
        to_compose({"services": {"api": {"command": ["a", "s3cret\0"]}}})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A\nB"])
def test_an_environment_file_refuses_what_is_not_a_name(name):
    with pytest.raises(TextError, match="cannot be the name"):
        to_env_file({name: "value"})


def test_an_environment_file_refuses_nul_without_showing_the_value():
    with pytest.raises(TextError, match="A holds a NUL") as caught:
        to_env_file({"A": "s3cret\0"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A", "line 1"),
        ("A=1\nA=2", "line 2: A is set a second time"),
        ("A=a$b", "single quotes"),
        ("A=a #b", "single quotes"),
        ("A='a", "single quote"),
        ("A='a' b", "single quote"),
        ('A="a', "double quote"),
        ('A="a$b"', "double quote"),
        ('A="a\\t"', "double quote"),
        ("1A=b", "line 1"),
    ],
)
def test_an_environment_file_that_readers_differ_about_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_env(text)


def test_an_environment_file_may_have_comments_blanks_and_exports():
    assert parse_env("# a\n\nexport A = b\nC=\n D='e f' \n") == {"A": "b", "C": "", "D": "e f"}


@by_value
def test_a_url_carries_every_password(value):
    parts = urlsplit(service_url("postgres", "u/ser", value or "x", "host:1/db"))
    assert (unquote(parts.username), unquote(parts.password), parts.hostname, parts.port) == ("u/ser", value or "x", "host", 1)


@pytest.mark.parametrize("name", ["lower_case", "_1", "MixedCase"])
def test_a_setting_may_have_any_name_of_a_variable(name):
    assert parse_env(to_env_file({name: "x"})) == {name: "x"}
