# SPDX-License-Identifier: GPL-3.0-or-later
"""The Node services fetch their secrets from AWS Secrets Manager when they start: the loader itself, in the application's image."""

import hashlib
import json
import subprocess
from pathlib import Path

from .conftest import CANARY, CREDENTIALS, REGION, error, free_port, value

ROOT = Path(__file__).resolve().parents[3]
OWN = {"DATABASE_URL": f"postgres://api:{CANARY}@postgres:5432/db", "REDIS_URL": f"redis://api:{CANARY}@redis:6379"}
LOADED = hashlib.sha256((OWN["DATABASE_URL"] + OWN["REDIS_URL"]).encode()).hexdigest()


def environment(secret_id: str, url: str, **more: str) -> dict[str, str]:
    return {"AWS_SECRETS_MANAGER_SECRET_ID": secret_id, "AWS_REGION": REGION, "AWS_ENDPOINT_URL_SECRETS_MANAGER": url} | CREDENTIALS | more


def load(cases: dict[str, dict[str, str]]) -> dict[str, dict]:
    image = json.loads((ROOT / ".cache/tests/images.json").read_text())["dev"]
    command = ["docker", "run", "--rm", "--init", "--network", "host", "--user", "10001:10001", "--read-only", "--tmpfs", "/tmp"]
    command += ["--volume", f"{ROOT}/tests/integration/aws/probe.mjs:/app/probe.mjs:ro", "--env", f"CASES={json.dumps(cases)}", image, "node", "probe.mjs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_loader_takes_what_moto_holds(moto):
    moto.put("runtime/own", json.dumps(OWN))
    moto.put("runtime/more", json.dumps(OWN | {"ROTATION": {"days": 30}, "OTHER": 4711}))
    moto.put("runtime/lower", json.dumps({name.lower(): text for name, text in OWN.items()}))
    moto.put("runtime/half", json.dumps({"REDIS_URL": OWN["REDIS_URL"]}))
    moto.put("runtime/number", json.dumps(OWN | {"REDIS_URL": 4711}))
    moto.put("runtime/text", CANARY)
    moto.client().create_secret(Name="runtime/binary", SecretBinary=CANARY.encode())
    moto.client().delete_secret(SecretId=moto.put("runtime/deleted", json.dumps(OWN)))
    expected = {
        "own": None,
        "more": None,
        "lower": None,
        "half": "DATABASE_URL is missing",
        "number": "REDIS_URL is no string",
        "text": "is no JSON object",
        "binary": "is no JSON object",
        "deleted": "restore it",
        "absent": "there is no such secret",
    }
    found = load({name: environment(f"runtime/{name}", moto.url) for name in expected})
    for name, message in expected.items():
        check(name, found[name], message)


def check(name: str, found: dict, message: str | None) -> None:
    if message is None:
        assert (found["status"], found["output"].strip()) == (0, LOADED), name
        return
    assert found["status"] == 1, name
    assert message in found["output"], name
    assert found["output"].startswith("configuration: "), name
    assert len(found["output"].splitlines()) == 1, f"{name}: {found['output']}"
    assert CANARY not in found["output"], name


def test_faults(fault_server):
    good = value(json.dumps(OWN))
    faults = fault_server(
        denied=[error("AccessDeniedException")],
        throttled=[error("ThrottlingException")],
        recovers=[error("ThrottlingException"), error("InternalServiceError", 500), good],
        expired=[error("ExpiredTokenException")],
        unrecognized=[error("UnrecognizedClientException")],
        garbage=[(200, f"<html>{CANARY}</html>".encode())],
        strange=[error(f"{CANARY} is no code of AWS")],
        slow=[(0, b"")],
    )
    expected = {
        "denied": "secretsmanager:GetSecretValue",
        "throttled": "throttled 4 times",
        "recovers": None,
        "expired": "credentials have expired",
        "unrecognized": "credentials were refused",
        "garbage": "AWS Secrets Manager",
        "strange": "the answer is not usable",
        "slow": "cannot be reached",
        "closed": "cannot be reached",
        "nobody": "hop limit of 2",
    }
    cases = {name: environment(name, faults.url) for name in faults.scripts}
    cases["closed"] = environment("x", f"http://127.0.0.1:{free_port()}")
    nobody = environment("x", faults.url, AWS_EC2_METADATA_DISABLED="true")
    cases["nobody"] = {name: text for name, text in nobody.items() if name not in CREDENTIALS}
    found = load(cases)
    for name, message in expected.items():
        check(name, found[name], message)
    assert faults.asked["throttled"] == 4
    assert faults.asked["recovers"] == 3
    assert found["slow"]["seconds"] < 30
