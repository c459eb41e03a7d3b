# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of values that a parser, shell or template takes for something else, and which path refuses which of them."""

_PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+abc/def==\n-----END PRIVATE KEY-----\n"

VALUES = {
    "dollar": "$",
    "two dollars": "$$",
    "variable": "c$HOME",
    "variable in braces": "${HOME}-${X:-y}",
    "command": "$(id)",
    "backticks": "`id`",
    "single quote": "it's",
    "double quote": 'say "x"',
    "both quotes": "'\"'\"",
    "hash": "a#b",
    "comment": "a #b",
    "equals": "a=b=",
    "colon": "a:b",
    "colon and blank": "a: b",
    "backslashes": "a\\b\\",
    "escapes spelled out": "a\\nb\\$c\\x41",
    "newline": "line\nNAME=next",
    "carriage return": "line\rNAME=next",
    "CRLF": "line\r\nnext\r\n",
    "tab": "a\tb",
    "blanks around": "  a b  ",
    "tab and newline around": "\ta\n",
    "empty": "",
    "unicode": "Grüße, 你好",
    "emoji": "😀👩‍👩‍👧",
    "right to left": "שלום\u202eabc",
    "combining": "e\u0301 n\u0303 \ufb01",
    "no-break blanks": "\u00a0a\u3000",
    "line separators": "a\u2028NAME=b\u0085c\vd\fe",
    "control characters": "\x01\x1b[31m\x7f",
    "surrogate pairs in JSON": '{"a": "\\ud83d\\ude00"}',
    "NUL": "a\0b",
    "PEM": _PEM,
    "JSON": '{"a": [1, "b c", null], "d": {}}',
    "float": "1e3",
    "octal": "0o17",
    "old octal": "08",
    "boolean": "no",
    "tilde": "~",
    "null": "null",
    "sequence": "- a",
    "alias": "*a",
    "anchor": "&a",
    "tag": "!x",
    "Jinja expression": "{{ 1 + 1 }}",
    "Jinja statement": "{% if x %}",
    "Jinja comment": "a{# b #}c",
    "URL": "postgres://u:p@h:1/d?x=y&z#f",
    "percent": "%00%s%25%41",
    "short option": "-n",
    "long option": "--help",
    "glob": "*?[a-z]",
    "URL delimiters": "@:/?#[]",
    "shell": ";|&<>(){}!^",
    "4096 characters": ("0 \\'\"$x" * 600)[:4095] + "z",
}
KEYS = {kind: f"HOSTILE_{number:02}" for number, kind in enumerate(VALUES)}


def password(kind: str) -> str:
    """The value, repeated until it is as long as a password has to be."""
    value = VALUES[kind]
    return value * (-(-8 // len(value)) if value else 1)


_NEVER = {"empty", "NUL"}
_LINES = {"newline", "carriage return", "CRLF", "tab and newline around", "PEM"}
_AROUND = {"blanks around", "tab and newline around", "CRLF", "PEM", "no-break blanks"}
# What PostgreSQL and its clients would make something else of before they compare.
_NORMALIZED = {"emoji", "combining", "no-break blanks"}
_LONG = {"4096 characters"}
_NO_ASCII = {"unicode", "emoji", "right to left", "combining", "no-break blanks", "line separators", "control characters"}
_BLANKS = {kind for kind, value in VALUES.items() if set(" \t\n\r") & set(value)}
_KEY = _NEVER | _BLANKS | _NO_ASCII | {kind for kind, value in VALUES.items() if set("=,") & set(value)}
# Secrets to the kinds that they cannot be; everything else arrives.
REFUSED = {
    "postgres_password": _NEVER | _LINES | _NORMALIZED,
    "postgres_api_password": _NEVER | _NORMALIZED,
    "postgres_rules_engine_password": _NEVER | _NORMALIZED,
    "postgres_scheduler_password": _NEVER | _NORMALIZED,
    "redis_api_password": _NEVER,
    "redis_rules_engine_password": _NEVER,
    "redis_scheduler_password": _NEVER,
    "minio_root_user": _KEY,
    "minio_root_password": _NEVER | _LINES | _AROUND | _LONG,
    "s3_access_key": _KEY,
    "s3_secret_key": _NEVER | _LINES | _LONG,
    "jwt_secret": _NEVER,
    "operator_password": _NEVER,
    "generation_key": _NEVER,
}
# The few kinds that are among what a setting may be, as its rule has it.
_WORDS = {"OPERATOR_USER", "S3_REGION"}
OPEN_SETTINGS = {
    "empty": {"VITE_API_URL"},
    "float": {*_WORDS, "S3_BUCKET"},
    "octal": {*_WORDS, "S3_BUCKET"},
    "old octal": _WORDS,
    "boolean": {*_WORDS, "POSTGRES_USER", "POSTGRES_DB"},
    "null": {*_WORDS, "POSTGRES_USER", "POSTGRES_DB", "S3_BUCKET"},
    "short option": _WORDS,
    "long option": _WORDS,
}
# What YAML takes for something else where no quotes stand.
BECOMES_NO_TEXT = {"empty", "tilde", "null", "boolean"}
