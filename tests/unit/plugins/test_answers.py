# SPDX-License-Identifier: GPL-3.0-or-later
"""What checks expect of answers in JSON: the expressions that are refused, what fails, and what is returned."""

import json
from unittest.mock import MagicMock

import pytest
from ansible_collections.campaign.platform.plugins.action.verify import ActionModule
from ansible_collections.campaign.platform.plugins.module_utils import verification
from ansible_collections.campaign.platform.plugins.modules import verify as module
from ansible_collections.campaign.platform.plugins.plugin_utils.answers import judged, query_problem, verified

HEALTHY = {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}}
ANSWER = {"status": "ok", "count": 1, "flag": True, "nothing": None, "queue": {"waiting": 3}, "info": {"redis": {"status": "up"}, "s3": {"status": "up"}}}


@pytest.mark.parametrize(
    "query",
    [
        "status",
        "queue.waiting < `100`",
        'info."rules-engine".status',
        "values(info)[].status | sort(@)",
        "items[0:2]",
        "not_null(a, b, c)",
        "sort_by(a, &b)[0]",
    ],
)
def test_an_expression_is_one(query):
    assert query_problem(query) is None


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("a[", "it is not a JMESPath expression: Invalid jmespath expression: Incomplete expression"),
        ("info.rules-engine", "it is not a JMESPath expression: Bad jmespath expression: Unknown token '-'"),
        ("", "it is not a JMESPath expression: Invalid JMESPath expression: cannot be empty"),
        ("items[?lenght(name) > `1`]", "lenght is not a function of JMESPath. Did you mean length?"),
        ("length()", "the function length takes 1 arguments, and not 0"),
        ("length(a, b)", "the function length takes 1 arguments, and not 2"),
        ("merge()", "the function merge takes 1 or more arguments, and not 0"),
    ],
)
def test_an_expression_that_is_none_is_told(query, told):
    assert query_problem(query).startswith(told)


@pytest.fixture
def ask(engine, web, run_module, reply):
    """Run the action on a service that answers with a text; the module runs as it does on a host."""
    engine.container("api", HEALTHY)
    engine.container("worker", HEALTHY)
    engine.on("GET", "/containers/[^/]+/logs", lambda request: b"\1\0\0\0\0\0\0\x0e" + f"log of {request.path.split('/')[2]:7}".encode())

    def run(text: str | bytes, *expected: dict, status: int = 200, more: tuple = (), returned: list | None = None) -> dict:
        web.on("GET", "/health", reply(status, text))
        checks = [
            {"service": "api", "name": f"check {number}", "kind": "http", "port": web.port, "path": "/health", "json": row}
            for number, row in enumerate(expected)
        ]
        arguments = {"project": "p", "services": ["api", "worker"], "timeout": 0, "checks": [*checks, *more], "socket": engine.path}

        def execute(module_name, module_args, task_vars):
            assert (module_name, module_args, task_vars) == ("campaign.platform.verify", arguments, {"a": 1})
            answer = run_module(module, **module_args)
            if returned is not None:
                returned.append(answer)
            return answer

        task = MagicMock(args=arguments, async_val=0, check_mode=False)
        action = ActionModule(task, MagicMock(), MagicMock(), None, None, None)
        action._execute_module = execute
        return action.run(task_vars={"a": 1})

    return run


@pytest.mark.parametrize(
    "expected",
    [
        {"query": "status", "equals": "ok"},
        {"query": "queue.waiting < `100`"},
        {"query": "nothing == `null`"},
        {"query": "absent == `null`"},
        {"query": "flag"},
        {"query": "count", "equals": 1},
        {"query": "count", "equals": 1.0},
        {"query": "values(info)[].status", "equals": ["up", "up"]},
        {"query": "queue", "equals": {"waiting": 3}},
    ],
)
def test_an_answer_that_says_what_is_expected_passes(ask, expected):
    answer = ask(json.dumps(ANSWER), expected)
    assert not answer.get("failed")
    # Two services with their health and their logs, and the check.
    assert (answer["passed"], answer["failures"]) == (5, [])
    assert set(answer) & {"answers", "logs"} == set()


@pytest.mark.parametrize(
    ("text", "expected", "wanted", "got"),
    [
        (json.dumps(ANSWER), {"query": "status", "equals": "up"}, 'GET /health to answer JSON with status: "up"', '"ok"'),
        (json.dumps(ANSWER), {"query": "count"}, "GET /health to answer JSON with count: true", "1"),
        (json.dumps(ANSWER), {"query": "flag", "equals": 1}, "GET /health to answer JSON with flag: 1", "true"),
        (json.dumps(ANSWER), {"query": "count", "equals": "1"}, 'GET /health to answer JSON with count: "1"', "1"),
        (json.dumps(ANSWER), {"query": "absent", "equals": "ok"}, 'GET /health to answer JSON with absent: "ok"', "null"),
        (json.dumps(ANSWER), {"query": "info.*.status", "equals": ["up"]}, 'GET /health to answer JSON with info.*.status: ["up"]', '["up", "up"]'),
        (json.dumps(ANSWER), {"query": "queue", "equals": {"waiting": True}}, 'GET /health to answer JSON with queue: {"waiting": true}', '{"waiting": 3}'),
        (
            json.dumps(ANSWER),
            {"query": "length(count)", "equals": 1},
            "GET /health to answer JSON with length(count): 1",
            "the expression fails: In function length()",
        ),
        (json.dumps(ANSWER), {"query": "a["}, "GET /health to answer JSON with a[", "it is not a JMESPath expression"),
        ("<html>", {"query": "status"}, "GET /health to answer JSON with status: true", "no JSON: <html>"),
        ("", {"query": "status"}, "GET /health to answer JSON with status: true", "no JSON: an empty answer"),
        ("[" * 100_000, {"query": "status"}, "GET /health to answer JSON with status: true", "no JSON: [[["),
        (b'{"status": "\xff"}', {"query": "status", "equals": "ok"}, 'GET /health to answer JSON with status: "ok"', '"\\ufffd"'),
        ("x" * (verification.LONGEST_ANSWER + 1), {"query": "status"}, "GET /health to answer with at most 256 KiB of JSON", "256 KiB"),
    ],
)
def test_an_answer_that_says_something_else_fails_as_other_checks_do(ask, text, expected, wanted, got):
    answer = ask(text, expected)
    (failure,) = answer["failures"]
    assert answer["failed"]
    assert failure["expected"] == wanted
    assert failure["got"].startswith(got)
    assert (failure["service"], failure["check"], failure["look"]) == ("api", "check 0", "docker compose -p p logs api")
    line = f"- api, check 0: expected {wanted}; got {failure['got']}. Look at: docker compose -p p logs api"
    assert answer["msg"] == f"1 of 5 checks failed:\n{line}"
    assert answer["passed"] == 4
    assert answer["logs"] == {"api": "log of api    "}
    assert "answers" not in answer


def test_all_failures_are_in_one_message(ask):
    right, wrong = {"query": "status", "equals": "ok"}, {"query": "status", "equals": "up"}
    other = {"service": "worker", "name": "page", "kind": "http", "port": 1}
    answer = ask(json.dumps(ANSWER), right, wrong, more=(other,))
    assert [(failure["service"], failure["check"]) for failure in answer["failures"]] == [("worker", "page"), ("api", "check 1")]
    assert answer["msg"].splitlines()[0] == "2 of 7 checks failed:"
    assert [line.split(":")[0] for line in answer["msg"].splitlines()[1:]] == ["- worker, page", "- api, check 1"]
    assert (answer["passed"], set(answer["logs"])) == (5, {"api", "worker"})


def test_another_failure_needs_no_log_of_what_passed(ask):
    other = {"service": "worker", "name": "page", "kind": "http", "port": 1}
    answer = ask(json.dumps(ANSWER), {"query": "status", "equals": "ok"}, more=(other,))
    assert (answer["failed"], answer["passed"], set(answer["logs"])) == (True, 5, {"worker"})
    assert "answers" not in answer


def test_an_answer_is_carried_only_where_somebody_looks_at_it(ask):
    returned = []
    ask("canary", status=200, returned=returned, more=({"service": "api", "name": "a", "kind": "http", "port": 1},))
    # What fails for another reason is not looked at either.
    ask("canary", {"query": "status"}, status=503, returned=returned)
    assert ["answers" in answer for answer in returned] == [False, False]
    ask(json.dumps(ANSWER), {"query": "status", "equals": "ok"}, returned=returned)
    assert returned[-1]["answers"][0]["text"] == json.dumps(ANSWER)


def test_what_the_module_refuses_stays_as_it_is(ask):
    refused = ask("", more=({"service": "api", "name": "a", "kind": "tcp", "port": 1, "json": {"query": "a"}},))
    assert refused["msg"] == "Nothing was asked, because these checks cannot be:\n- api, a: json is for the kind http."
    assert judged({"failed": True, "msg": "The Docker Engine did not answer."}) == {"failed": True, "msg": "The Docker Engine did not answer."}


def test_without_the_library_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jmespath", None)
    assert query_problem("status") == "the Python package jmespath is needed on this machine for checks with json. Install it, such as by: pip install jmespath"


@pytest.mark.parametrize(("equals", "is_verified"), [("ok", True), ("up", False)])
def test_a_release_that_runs_is_verified_only_where_its_answers_say_so(equals, is_verified):
    answer = {"query": "status", "equals": equals, "text": json.dumps(ANSWER), "failure": {"expected": "GET /health"}}
    assert verified({"is_verified": True, "answers": [answer], "plan": []}) == {"is_verified": is_verified, "plan": []}
    assert verified({"is_verified": False, "answers": []}) == {"is_verified": False}
    assert verified({"changed": True}) == {"changed": True}
