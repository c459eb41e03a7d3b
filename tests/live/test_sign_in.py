# SPDX-License-Identifier: GPL-3.0-or-later
"""Guessing the operator's password is refused, whatever address a client claims. Each guess comes from a container with an address of its own."""

import json

import pytest

# Signs in as often as it is told, and says an answer's status and its header Retry-After, a line each.
GUESS = """
const [url, times, forge, password] = process.argv.slice(1);
const headers = { "content-type": "application/json" };
for (let n = 0; n < Number(times); n++) {
  if (forge === "yes") headers["x-forwarded-for"] = `198.51.100.${n}, 203.0.113.${n}`;
  const body = JSON.stringify({ username: "operator", password });
  const answer = await fetch(url, { method: "POST", headers, body });
  console.log(JSON.stringify([answer.status, answer.headers.get("retry-after"), answer.headers.get("content-type")]));
}
"""


@pytest.fixture(scope="module")
def addresses(host):
    """Containers beside the frontend, one a test. All are there until the end, or the next one would get the address of the last."""
    image = host.containers["api"]["Image"]
    options = ["--rm", "--init", "--read-only", "--cap-drop=ALL", "--user=10001:10001", f"--network={host.project}_frontend-network", "--entrypoint=node"]
    started = [host.text("docker", "run", "--detach", *options, image, "--eval", "setInterval(() => {}, 1e6)").strip() for _ in range(4)]
    yield iter(started)
    host.run("docker", "rm", "--force", *started)


@pytest.fixture
def guess(host, is_tls, addresses):
    """Sign in from an address that did not try yet, and return each answer's status, its Retry-After and its type."""
    # Whose certificate it is does not matter here.
    origin, environment = ("https://frontend:8443", ["--env=NODE_TLS_REJECT_UNAUTHORIZED=0"]) if is_tls else ("http://frontend:8080", [])
    container = next(addresses)

    def run(times: int, password: str, *, forge: bool = True) -> list[list]:
        program = ["node", "--input-type=module", "--eval", GUESS, f"{origin}/api/auth/login", str(times), "yes" if forge else "no", password]
        return [json.loads(line) for line in host.text("docker", "exec", *environment, container, *program).splitlines()]

    return run


@pytest.mark.parametrize("forge", [True, False])
def test_ten_failures_are_enough_whatever_address_is_claimed(guess, forge):
    answers = guess(12, "certainly-wrong", forge=forge)
    assert [status for status, _, _ in answers] == [401] * 10 + [429] * 2
    for _, retry_after, content_type in answers[10:]:
        assert 0 < int(retry_after) <= 300
        assert content_type.startswith("application/problem+json")


def test_nginx_refuses_before_the_api_is_asked(guess):
    answers = guess(25, "certainly-wrong")
    # The api's own refusals want minutes; nginx's want seconds.
    assert any(status == 429 and int(retry_after) == 3 for status, retry_after, _ in answers)


def test_the_right_password_is_never_too_often(guess, stack_secrets):
    answers = guess(15, stack_secrets["operator_password"])
    assert {status for status, _, _ in answers} == {200}
