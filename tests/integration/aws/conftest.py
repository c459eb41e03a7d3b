# SPDX-License-Identifier: GPL-3.0-or-later
"""AWS Secrets Manager as the tests know it: moto's server, and one that answers with the faults that moto does not make."""

import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import boto3
import program
import pytest
from ansible_collections.campaign.platform.plugins.plugin_utils.texts import plain

REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
# Is in all that must not be shown: secret values, and messages of the server that answers.
CANARY = "canary0secret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Moto:
    url: str
    log: Path

    def requests(self) -> int:
        """Return how many requests of AWS's API there were."""
        return self.log.read_text().count('"POST / HTTP/')

    def client(self):
        return boto3.client("secretsmanager", region_name=REGION, endpoint_url=self.url, aws_access_key_id="test", aws_secret_access_key="test", verify=False)

    def put(self, name: str, text: str) -> str:
        self.client().create_secret(Name=name, SecretString=text)
        return name


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """moto's server on a port of its own, ended with the tests."""
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(["moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output)
    try:
        for _attempt in range(120):
            assert server.poll() is None, log.read_text()
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=2):
                break
            time.sleep(0.25)
        yield Moto(f"http://127.0.0.1:{port}", log)
    finally:
        server.terminate()
        server.wait()


@dataclass
class FaultServer:
    """Answers each secret's requests with its script, of which the last entry is repeated, and counts them."""

    scripts: dict[str, list[tuple[int, bytes]]]
    url: str = ""
    asked: Counter = field(default_factory=Counter)


def error(code: str, status: int = 400) -> tuple[int, bytes]:
    """Return an error as AWS's JSON protocol spells it."""
    return status, json.dumps({"__type": code, "message": f"{code}: {CANARY}"}).encode()


def value(text: str) -> tuple[int, bytes]:
    return 200, json.dumps({"ARN": "arn:x", "Name": "x", "VersionId": "x" * 36, "SecretString": text}).encode()


@pytest.fixture
def fault_server():
    """Start servers with the scripts given, and end them with the test."""
    servers = []

    def start(**scripts: list[tuple[int, bytes]]) -> FaultServer:
        faults = FaultServer(scripts)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = request["SecretId"]
                script = faults.scripts[name]
                status, body = script[min(faults.asked[name], len(script) - 1)]
                faults.asked[name] += 1
                if status == 0:
                    # Too slow for every time limit.
                    time.sleep(60)
                self.send_response(status or 200)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        faults.url = f"http://127.0.0.1:{server.server_address[1]}"
        return faults

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def strong() -> dict[str, str]:
    """A value for every secret of the stack, each with the canary in it."""
    return {name: f"{CANARY}-{secrets.token_urlsafe(24)}" for name in plain(program.secret_names())}


@pytest.fixture
def clean_environment(tmp_path) -> dict[str, str]:
    """The environment without whatever this machine knows about AWS."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "ANSIBLE_"))}
    return kept | {
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
        "ANSIBLE_INJECT_INVOCATION": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
