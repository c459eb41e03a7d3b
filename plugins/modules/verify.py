#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask every question about the health of a running stack at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify
short_description: Verify that a Compose stack works, from where its users stand
version_added: 0.1.0
description:
  - Reads State and Health of every service back from the Engine, because C(docker compose up --wait) can return 0 on a stack
    that never became healthy, and waits until all are healthy or O(timeout) has passed.
  - Then asks all O(checks) concurrently and reports every failure, not just the first. Nothing is changed, except that a probe
    writes, reads and removes a value of its own.
options:
  project:
    description: Compose project name.
    type: str
    required: true
  services:
    description: Names of the services that must run and be healthy.
    type: list
    elements: str
    required: true
  jobs:
    description: Names of the services that must have run to their end with success. One that failed ends the wait.
    type: list
    elements: str
    default: []
  images:
    description: References by service. The image that a service runs must be the one that the Engine has under its reference.
    type: dict
    default: {}
  checks:
    description: What to ask. Each names the service that is to blame when it fails.
    type: list
    elements: dict
    default: []
    suboptions:
      service:
        description: Compose service that the check is about.
        type: str
        required: true
      name:
        description: What is checked, in a few words.
        type: str
        required: true
      kind:
        description:
          - V(http) gets O(checks[].path) and compares status, headers and text.
          - V(probe) has the service ask its own dependencies with values chosen here, and compares what came back.
          - V(unreachable) proves that O(checks[].port) of the host answers on loopback only.
          - V(campaign) creates a campaign, waits for its evaluation and removes it. Asked with O(depth=full) only.
          - V(old_tls) proves that TLS 1.1 is refused.
        type: str
        choices: [http, probe, unreachable, campaign, old_tls]
        required: true
      port:
        description: TCP port, of the container unless O(checks[].address) is given.
        type: int
        required: true
      address:
        description: Address of the host where the port is published. Without it the container's own address is asked.
        type: str
      certificate:
        description:
          - Certificate and chain in PEM. Given, V(http) and V(campaign) ask by https, expect this very certificate, and trust nothing else.
        type: str
      server_name:
        description: DNS name to ask for, and to find in the certificate. Required with O(checks[].certificate).
        type: str
      path:
        description: Path and query of an V(http) check.
        type: str
        default: /
      status:
        description: HTTP status that V(http) expects.
        type: int
        default: 200
      headers:
        description: Headers that the answer of V(http) must have, with these values.
        type: dict
        default: {}
      contains:
        description: Text that the answer of V(http) must contain.
        type: str
      expect:
        description: Names of the answers that V(probe) expects.
        type: list
        elements: str
        default: []
  depth:
    description: V(full) adds the end-to-end checks.
    type: str
    choices: [basic, full]
    default: basic
  operator_user:
    description: User that V(campaign) signs in as.
    type: str
  operator_password:
    description: That user's password.
    type: str
  timeout:
    description: Seconds to wait for all services to become healthy and all jobs to end.
    type: int
    default: 120
  socket:
    description: The Engine's socket.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Asks the same questions.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Verify a frontend
  campaign.platform.verify:
    project: campaign
    services: [frontend]
    checks:
      - {service: frontend, name: the page, kind: http, address: 127.0.0.1, port: 8080, contains: "<div id=\"root\">"}
"""

RETURN = r"""
passed:
  description: Number of checks that passed.
  type: int
  returned: always
failures:
  description: Each failure with C(service), C(check), C(expected), C(got) and C(look).
  type: list
  elements: dict
  returned: always
logs:
  description: The last lines of every service that failed.
  type: dict
  returned: on failure
"""

import concurrent.futures
import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, project_containers
from ansible_collections.campaign.platform.plugins.module_utils.registry import image_path

# A PNG of one pixel: the smallest real image to store and get back.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f0005000201fb2ed4a60000000049454e44ae426082"
)
HTTP_TIMEOUT = 10
SUCCESS = "exited (exit code 0)"
EVALUATION_TIMEOUT = 90


class Failed(Exception):
    """A check's verdict: what was expected, and what came instead."""

    def __init__(self, expected: str, got: str):
        super().__init__(expected, got)
        self.expected, self.got = expected, got


def shorten(text: str, limit: int = 200) -> str:
    """Return text on one line, cut to what a message can carry."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


class HttpsConnection(http.client.HTTPConnection):
    """A connection to an address under another name, which trusts the given certificates only and expects the first of them."""

    def __init__(self, address: str, port: int, timeout: float, certificate: str, server_name: str):
        super().__init__(address, port, timeout=timeout)
        self._server_name = server_name
        # What tools write around certificates is no part of them.
        blocks = re.findall(rf"{ssl.PEM_HEADER}.*?{ssl.PEM_FOOTER}", certificate, re.DOTALL)
        self._expected = ssl.PEM_cert_to_DER_cert(blocks[0])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A chain rarely holds its root, so each of its certificates may be the end of the way.
        self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._context.load_verify_locations(cadata="\n".join(blocks))

    def connect(self) -> None:
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)
        if self.sock.getpeercert(binary_form=True) != self._expected:
            raise ssl.SSLError(1, "another certificate than the one that was given")


def http_exchange(addresses, port, tls, method, path, *, body=None, headers=None):
    """Ask the first address that accepts a connection; return status, headers and body."""
    problem = "the container has no address"
    for address in addresses:
        connection = HttpsConnection(address, port, HTTP_TIMEOUT, **tls) if tls else http.client.HTTPConnection(address, port, timeout=HTTP_TIMEOUT)
        try:
            connection.connect()
        except OSError as error:
            problem = f"{address}:{port}: {error.strerror or error}"
            connection.close()
            continue
        try:
            named = {"Host": tls["server_name"]} if tls else {}
            connection.request(method, path, body, {**named, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException) as error:
            problem = f"{address}:{port}: {type(error).__name__}"
        finally:
            connection.close()
    raise Failed(f"an HTTP answer to {method} {path}", problem)


def http_request(addresses, port, tls, method, path, *, body=None, headers=None):
    """Ask, and return status and body."""
    status, _headers, answer = http_exchange(addresses, port, tls, method, path, body=body, headers=headers)
    return status, answer


def old_hello(server_name: str) -> bytes:
    """Return a ClientHello of TLS 1.1. OpenSSL itself would refuse to send one on most hosts, which would prove nothing about the server."""

    def sized(content: bytes, width: int = 2) -> bytes:
        return len(content).to_bytes(width, "big") + content

    name = server_name.encode("idna")
    server_names = b"\0\0" + sized(sized(b"\0" + sized(name)))
    curves = b"\0\x0a" + sized(sized(bytes.fromhex("001700180019")))
    formats = b"\0\x0b" + sized(b"\x01\0")
    # ECDHE and RSA key exchange with AES-CBC: what TLS 1.1 had.
    ciphers = bytes.fromhex("c009c00ac013c014002f0035")
    hello = b"\x03\x02" + secrets.token_bytes(32) + b"\0" + sized(ciphers) + b"\x01\0" + sized(server_names + curves + formats)
    return b"\x16\x03\x01" + sized(b"\x01" + sized(hello, 3))


def json_request(addresses, port, tls, method, path, *, payload=None, token=None, status=200):
    """Ask with and for JSON; fail on any other status than the one expected."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = None
    if payload is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(payload)
    got, answer = http_request(addresses, port, tls, method, path, body=body, headers=headers)
    if got != status:
        raise Failed(f"{method} {path} to answer {status}", f"{got} {shorten(answer.decode(errors='replace'))}")
    try:
        return json.loads(answer) if answer else None
    except ValueError:
        raise Failed(f"{method} {path} to answer JSON", shorten(answer.decode(errors="replace"))) from None


def host_addresses(engine_networks: list[str]) -> list[str]:
    """Return the host's own addresses towards the outside and towards its container networks."""
    addresses = set(engine_networks)
    # Connecting a datagram socket sends nothing; it makes the kernel choose the source address.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            addresses.add(probe.getsockname()[0])
        except OSError:
            # A host without a route to anywhere cannot be reached from there either.
            pass
    return sorted(address for address in addresses if address and not address.startswith("127."))


class Stack:
    """The containers of a Compose project and the questions asked of them."""

    def __init__(self, engine: Engine, params: dict):
        self.engine = engine
        self.params = params
        self.containers: dict[str, dict] = {}
        self.gateways: list[str] = []

    def refresh(self) -> None:
        """Read the state of every container of the project."""
        found = {}
        for item in project_containers(self.engine, self.params["project"]):
            try:
                found[item["Labels"]["com.docker.compose.service"]] = self.engine.get(f"/containers/{item['Id']}/json")
            except EngineError as error:
                # Removed between the two questions: Compose is replacing it.
                if error.status != 404:
                    raise
        self.containers = found

    def state(self, service: str) -> str:
        """Return 'healthy' or what is the case instead."""
        container = self.containers.get(service)
        if container is None:
            return "no container"
        state = container["State"]
        if state["Status"] != "running":
            return f"{state['Status']} (exit code {state['ExitCode']})"
        health = state.get("Health")
        if health is None:
            return "running without a healthcheck"
        if health["Status"] == "unhealthy" and health.get("Log"):
            return f"unhealthy: {shorten(health['Log'][-1]['Output'])}"
        return health["Status"]

    def wait(self) -> list[dict]:
        """Wait for every service and job and return a failure for each that is not healthy, or did not end well, in the end."""
        deadline = time.monotonic() + self.params["timeout"]
        while True:
            self.refresh()
            services = {service: self.state(service) for service in self.params["services"]}
            ill = {service: state for service, state in services.items() if state != "healthy"}
            jobs = {job: self.state(job) for job in self.params["jobs"]}
            unfinished = {job: state for job, state in jobs.items() if state != SUCCESS}
            failed = any(state.startswith("exited") for state in unfinished.values())
            if not (ill or unfinished) or failed or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        return [self.failure(service, "health", "healthy", state) for service, state in ill.items()] + [
            self.failure(job, "run to its end", SUCCESS, state) for job, state in unfinished.items()
        ]

    def failure(self, service: str, check: str, expected: str, got: str) -> dict:
        """Describe one failure."""
        look = f"docker compose -p {self.params['project']} logs {service}"
        return {"service": service, "check": check, "expected": expected, "got": got, "look": look}

    def addresses(self, check: dict) -> list[str]:
        """Return where to ask a check's question."""
        if check["address"]:
            return ["127.0.0.1" if check["address"] == "0.0.0.0" else check["address"]]
        networks = self.containers.get(check["service"], {}).get("NetworkSettings", {}).get("Networks", {})
        return [network["IPAddress"] for network in networks.values() if network.get("IPAddress")]

    def where(self, check: dict) -> tuple:
        """Return addresses, port and, for https, the certificate to expect."""
        tls = {"certificate": check["certificate"], "server_name": check["server_name"]} if check["certificate"] else None
        return self.addresses(check), check["port"], tls

    def check_http(self, check: dict) -> None:
        """Compare status, headers and text."""
        status, headers, body = http_exchange(*self.where(check), "GET", check["path"])
        text = body.decode(errors="replace")
        if status != check["status"]:
            raise Failed(f"GET {check['path']} to answer {check['status']}", f"{status} {shorten(text)}")
        for name, value in check["headers"].items():
            if headers.get(name) != value:
                raise Failed(f"GET {check['path']} to answer with {name}: {value}", shorten(headers.get(name) or "no such header"))
        if check["contains"] and check["contains"] not in text:
            raise Failed(f"GET {check['path']} to contain {check['contains']!r}", shorten(text))

    def check_probe(self, check: dict) -> None:
        """Have a service ask its dependencies with values it cannot know beforehand."""
        nonce = secrets.token_hex(16)
        lng, lat = secrets.randbelow(3600) / 10 - 180 + 0.05, secrets.randbelow(1800) / 10 - 90 + 0.05
        lng, lat = round(lng, 2), round(lat, 2)
        answer = json_request(*self.where(check), "POST", "/internal/probe", payload={"nonce": nonce, "lng": lng, "lat": lat})
        wanted = {
            "postgis": f"POINT({lng:g} {lat:g})",
            "redis": nonce,
            "s3": nonce,
            "postgres_wrong_password": "28P01",
            "redis_wrong_password": "WRONGPASS",
            "s3_default_credentials": "InvalidAccessKeyId",
            "s3_wrong_secret": "SignatureDoesNotMatch",
        }
        got = {item["name"]: item for item in answer["checks"]}
        wrong = [
            (name, wanted[name], shorten(f"{item.get('got')} {item.get('detail') or ''}") if item else "no such answer")
            for name in check["expect"]
            for item in [got.get(name)]
            if item is None or item.get("got") != wanted[name]
        ]
        if wrong:
            raise Failed(", ".join(f"{name}: {expected}" for name, expected, _got in wrong), ", ".join(f"{name}: {came}" for name, _expected, came in wrong))

    def check_unreachable(self, check: dict) -> None:
        """Prove that no address but loopback accepts a connection, where the service publishes the port at all."""
        published = self.containers.get(check["service"], {}).get("NetworkSettings", {}).get("Ports") or {}
        if not any(int(binding["HostPort"]) == check["port"] for bindings in published.values() for binding in bindings or []):
            return
        for address in host_addresses(self.gateways):
            try:
                with socket.create_connection((address, check["port"]), timeout=2):
                    raise Failed(f"port {check['port']} to answer on loopback only", f"{address}:{check['port']} accepts connections")
            except OSError:
                continue

    def check_old_tls(self, check: dict) -> None:
        """Prove that a client of TLS 1.1 is turned away."""
        for address in self.addresses(check):
            try:
                with socket.create_connection((address, check["port"]), timeout=HTTP_TIMEOUT) as connection:
                    connection.sendall(old_hello(check["server_name"]))
                    answer = connection.recv(3)
            except OSError as error:
                raise Failed("TLS 1.1 to be refused", f"{address}:{check['port']}: {error.strerror or error}") from None
            # The type of the first record: 21 is an alert, 22 goes on with the handshake.
            if answer[:1] != b"\x15":
                raise Failed("TLS 1.1 to be refused", "it is accepted" if answer[:1] == b"\x16" else f"no TLS: {answer!r}")

    def check_campaign(self, check: dict) -> None:
        """Create a campaign with an asset, see it evaluated, and remove it again."""
        where = self.where(check)
        login = {"username": self.params["operator_user"], "password": self.params["operator_password"]}
        token = json_request(*where, "POST", "/api/auth/login", payload=login)["accessToken"]
        status, _body = http_request(*where, "POST", "/api/campaigns", body="{}", headers={"Content-Type": "application/json"})
        if status != 401:
            raise Failed("creating a campaign without a token to answer 401", str(status))
        campaign = {
            "name": f"verification {secrets.token_hex(4)}",
            "place": {"type": "Point", "coordinates": [13.4, 52.5]},
            "rule": {"type": "within_radius", "center": [13.4, 52.5], "radiusMeters": 1000},
        }
        created = json_request(*where, "POST", "/api/campaigns", payload=campaign, token=token, status=201)
        path = f"/api/campaigns/{created['id']}"
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
            status, body = http_request(*where, "PUT", f"{path}/asset", body=PIXEL, headers=headers)
            if status not in (200, 201, 204):
                raise Failed("storing an asset to succeed", f"{status} {shorten(body.decode(errors='replace'))}")
            status, body = http_request(*where, "GET", f"{path}/asset")
            if (status, body) != (200, PIXEL):
                raise Failed("the asset to come back as it was stored", f"{status} and {len(body)} bytes")
            self._await_evaluation(where, path)
        except (Failed, KeyError, TypeError):
            # What failed first is what matters; a failure to clean up must not hide it.
            with contextlib.suppress(Failed):
                http_request(*where, "DELETE", path, headers={"Authorization": f"Bearer {token}"})
            raise
        json_request(*where, "DELETE", path, token=token, status=204)
        json_request(*where, "GET", path, status=404)

    @staticmethod
    def _await_evaluation(where, path: str) -> None:
        deadline = time.monotonic() + EVALUATION_TIMEOUT
        while (state := json_request(*where, "GET", path)["state"]) == "pending":
            if time.monotonic() >= deadline:
                raise Failed(f"the campaign to be evaluated within {EVALUATION_TIMEOUT} s", "still pending: look at the scheduler and the rules-engine too")
            time.sleep(0.5)
        if state != "active":
            raise Failed("a campaign inside its own radius to become active", state)

    def check_logs(self, service: str) -> None:
        """Prove that the service's logs can be read."""
        container = self.containers[service]
        query = {"stdout": "1", "stderr": "1", "tail": "1"}
        status, body = self.engine.request("GET", f"/containers/{container['Id']}/logs", query=query)
        if status != 200 or not body:
            driver = container["HostConfig"]["LogConfig"]["Type"]
            raise Failed("at least one readable line of log", f"status {status} and {len(body)} bytes from the log driver {driver}")

    def check_image(self, service: str, reference: str) -> None:
        """Prove that a service runs the image of the release, whatever its tag has come to mean."""
        running = self.containers[service]["Image"]
        try:
            wanted = self.engine.get(image_path(reference))["Id"]
        except EngineError as error:
            if error.status != 404:
                raise
            raise Failed(f"{reference} to be among the Engine's images", f"not there; {running} runs") from None
        if running != wanted:
            raise Failed(f"to run {reference}, which is {wanted}", running)

    def tail(self, service: str, lines: int = 20) -> str:
        """Return the last lines of a service's log."""
        container = self.containers.get(service)
        if container is None:
            return ""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        _status, body = self.engine.request("GET", f"/containers/{container['Id']}/logs", query=query)
        # Each frame starts with eight bytes: the stream, three zeros and the length.
        text, rest = b"", body
        while len(rest) >= 8 and rest[0] in (0, 1, 2) and rest[1:4] == b"\0\0\0":
            length = int.from_bytes(rest[4:8], "big")
            text, rest = text + rest[8 : 8 + length], rest[8 + length :]
        return (text + rest).decode(errors="replace")

    def ask(self, task) -> dict | None:
        """Run one check; return its failure, if it failed."""
        service, name, function, arguments = task
        try:
            function(*arguments)
        except Failed as failed:
            return self.failure(service, name, failed.expected, failed.got)
        except (KeyError, TypeError, EngineError) as error:
            return self.failure(service, name, "an answer of the documented form", f"{type(error).__name__}: {shorten(str(error))}")
        return None

    def tasks(self) -> list[tuple]:
        """List the checks to ask at this depth."""
        functions = {
            "http": self.check_http,
            "probe": self.check_probe,
            "unreachable": self.check_unreachable,
            "campaign": self.check_campaign,
            "old_tls": self.check_old_tls,
        }
        tasks = [(service, "logs", self.check_logs, (service,)) for service in self.params["services"] if service in self.containers]
        tasks += [(service, "image", self.check_image, (service, image)) for service, image in self.params["images"].items() if service in self.containers]
        for check in self.params["checks"]:
            if check["kind"] != "campaign" or self.params["depth"] == "full":
                tasks.append((check["service"], check["name"], functions[check["kind"]], (check,)))
        return tasks

    def verify(self) -> tuple[int, list[dict]]:
        """Return the number of checks that passed, and the failures."""
        failures = self.wait()
        # The gateway of a bridge is the host itself; that of another driver may be somebody else's machine.
        bridges = [network for network in self.engine.get("/networks") if network["Driver"] == "bridge"]
        self.gateways = [pool.get("Gateway", "") for network in bridges for pool in (network["IPAM"].get("Config") or [])]
        tasks = self.tasks()
        with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
            failures += [failure for failure in pool.map(self.ask, tasks) if failure]
        return len(tasks) + len(self.params["services"]) + len(self.params["jobs"]) - len(failures), failures


def main() -> None:
    """Entry point."""
    text = {"type": "str", "required": True}
    check = {
        "service": text,
        "name": text,
        "kind": {"type": "str", "choices": ["http", "probe", "unreachable", "campaign", "old_tls"], "required": True},
        "port": {"type": "int", "required": True},
        "address": {"type": "str"},
        "certificate": {"type": "str"},
        "server_name": {"type": "str"},
        "path": {"type": "str", "default": "/"},
        "status": {"type": "int", "default": 200},
        "headers": {"type": "dict", "default": {}},
        "contains": {"type": "str"},
        "expect": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "project": text,
            "services": {"type": "list", "elements": "str", "required": True},
            "jobs": {"type": "list", "elements": "str", "default": []},
            "images": {"type": "dict", "default": {}},
            "checks": {"type": "list", "elements": "dict", "default": [], "options": check, "required_by": {"certificate": ("server_name",)}},
            "depth": {"type": "str", "choices": ["basic", "full"], "default": "basic"},
            "operator_user": {"type": "str"},
            "operator_password": {"type": "str", "no_log": True},
            "timeout": {"type": "int", "default": 120},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
        required_if=[("depth", "full", ("operator_user", "operator_password"))],
    )
    stack = Stack(Engine(module.params["socket"]), module.params)
    try:
        passed, failures = stack.verify()
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not answer: {error}. Is it running, and may this user use its socket?")
    if failures:
        lines = [f"- {item['service']}, {item['check']}: expected {item['expected']}; got {item['got']}. Look at: {item['look']}" for item in failures]
        logs = {service: stack.tail(service) for service in sorted({item["service"] for item in failures})}
        summary = f"{len(failures)} of {passed + len(failures)} checks failed:"
        module.fail_json(msg="\n".join([summary, *lines]), passed=passed, failures=failures, logs=logs)
    module.exit_json(changed=False, passed=passed, failures=[])


if __name__ == "__main__":
    main()
