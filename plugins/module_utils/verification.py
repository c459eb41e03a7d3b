# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a Compose stack works: the state of its containers, and checks that are asked from where its users stand."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import re
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.campaign.platform.plugins.module_utils import manifest
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError, EngineTimeout, demultiplex, message_of, project_containers
from ansible_collections.campaign.platform.plugins.module_utils.http import Answer, HttpError, Target, Tls, exchange
from ansible_collections.campaign.platform.plugins.module_utils.lock import Pulse
from ansible_collections.campaign.platform.plugins.module_utils.plan import image_id
from ansible_collections.campaign.platform.plugins.module_utils.routes import by_age
from ansible_collections.campaign.platform.plugins.module_utils.verdict import shorten

CONNECT_TIMEOUT = 2
# Bytes of an answer that are carried to the controller.
LONGEST_ANSWER = 256 * 1024
PROBE_PATH = "/internal/probe"
SUCCESS = "exited (exit code 0)"
NO_HEALTHCHECK = "running without a healthcheck; give it one: healthcheck in its Compose text, or HEALTHCHECK in its image"
# How often a container that the Engine does not call healthy yet is asked by the command of its own healthcheck, and how long that may take.
EARLY_INTERVAL, EARLY_SECONDS = 0.5, 3.0
# The Engine waits twice as long before each new start, so these take three seconds and the time that the service runs in between.
CRASH_LOOP = 5
# What a proxy answers with as long as it knows no address of a service. It asks Docker's DNS each second, and on a host that reaches no other DNS an answer
# to a name that is not there yet takes four.
GATEWAY_FAILURES = (502, 503, 504)
GATEWAY_SECONDS = 15
# The kernel's own list of the host's addresses, whatever made them.
ROUTES = "/proc/net/fib_trie"

TEXT = {"type": "str", "required": True}
CHECK = {
    "type": "list",
    "elements": "dict",
    "required_by": {"certificate": ("server_name",)},
    "required_if": [("kind", "http", ("port",)), ("kind", "tcp", ("port",)), ("kind", "probe", ("port", "send", "expect")), ("kind", "command", ("command",))],
    "options": {
        "service": TEXT,
        "name": TEXT,
        "kind": {"type": "str", "choices": ["http", "tcp", "probe", "command"], "required": True},
        "depth": {"type": "str", "choices": ["basic", "full"], "default": "basic"},
        "port": {"type": "int"},
        "address": {"type": "str"},
        "certificate": {"type": "str"},
        "server_name": {"type": "str"},
        "path": {"type": "str"},
        "status": {"type": "int"},
        "headers": {"type": "dict", "default": {}},
        "contains": {"type": "str"},
        "json": {"type": "dict", "options": {"query": TEXT, "equals": {"type": "raw"}}},
        "send": {"type": "dict"},
        "expect": {"type": "raw"},
        "command": {"type": "list", "elements": "str"},
        "environment": {"type": "dict", "default": {}},
        "timeout": {"type": "int", "default": 60},
    },
}

# What a release's manifest says of these is what counts where a parameter says nothing.
FROM_MANIFEST: dict[str, Any] = {
    "project": {"type": "str"},
    "services": {"type": "list", "elements": "str"},
    "images": {"type": "dict"},
    "checks": CHECK,
}


class Failed(Exception):
    """A check's verdict: what was expected, and what came instead."""

    def __init__(self, expected: str, got: str):
        super().__init__(expected, got)
        self.expected, self.got = expected, got


def last_lines(text: str, count: int = 3) -> str:
    """Return the last lines that say something, for a message."""
    return shorten(" / ".join([line for line in text.splitlines() if line.strip()][-count:]))


def fill(value: Any, chosen: dict[str, Any]) -> Any:
    """Return a value with its placeholders replaced; one that is nothing but a placeholder becomes what was chosen, with its type."""
    if isinstance(value, dict):
        return {name: fill(inner, chosen) for name, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, chosen) for inner in value]
    if not isinstance(value, str):
        return value
    names = "|".join(chosen)
    whole = re.fullmatch(rf"\{{({names})\}}", value)
    if whole:
        return chosen[whole[1]]
    return re.sub(rf"\{{({names})\}}", lambda found: _spelled(chosen[found[1]]), value)


def _spelled(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def choose() -> dict[str, Any]:
    """Return values that no service can know beforehand."""
    return {
        "nonce": secrets.token_hex(16),
        # Never a whole number, which some databases would spell in another way.
        "longitude": round(secrets.randbelow(3600) / 10 - 180 + 0.05, 2),
        "latitude": round(secrets.randbelow(1800) / 10 - 90 + 0.05, 2),
    }


def host_addresses() -> list[str]:
    """Return the host's own IPv4 addresses but for those of loopback: towards the outside and towards its container networks."""
    with open(ROUTES, encoding="utf-8") as file:
        found = re.findall(r"\|-- ([0-9.]+)\n(?: +/\d+ .*\n)*? +/32 host LOCAL", file.read())
    return sorted({address for address in found if not address.startswith("127.")})


def accepts(address: str, port: int) -> str:
    """Connect; return why it did not succeed, or nothing."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT_TIMEOUT):
            return ""
    except OSError as error:
        return f"{address}:{port}: {error.strerror or error}"


def limit_of(container: dict) -> str:
    """Return the memory that a container may use, as part of a sentence; nothing where it has no limit."""
    limit = (container.get("HostConfig") or {}).get("Memory") or 0
    return f" (its limit is {limit / 2**20:.0f} MiB)" if limit else ""


class Stack:
    """The containers of a Compose project and the questions asked of them."""

    def __init__(self, engine: Engine, params: dict[str, Any]):
        self.engine = engine
        self.params = params
        self.containers: dict[str, dict] = {}
        self.pulse = Pulse(params.get("lock_directory"))
        # What the actions look at, by checks with json, and take out.
        self.answers: list[dict[str, Any]] = []
        self.all_are_healthy = False
        # Since when a start of a service answers, by what tells that start from another one.
        self.answering: dict[tuple[str, str, int], float] = {}
        self.asked_early = 0.0
        # What did not answer in time may still be at work in the container, and nobody can end it.
        self.hanging: set[tuple[str, str, int]] = set()

    def refresh(self) -> None:
        """Read the state of every container of the project."""
        found = {}
        # Where a service has two, one of them is about to replace the other: the newer one is meant.
        for item in by_age(project_containers(self.engine, self.params["project"])):
            try:
                found[item["Labels"]["com.docker.compose.service"]] = self.engine.get(f"/containers/{item['Id']}/json")
            except EngineError as error:
                # Removed between the two questions: Compose is replacing it.
                if error.status != 404:
                    raise
        self.containers = found

    def is_at_rest(self) -> bool:
        """Return whether no service runs or is about to: Docker starts none again that was stopped or removed."""
        self.refresh()
        statuses = [self.containers[service]["State"]["Status"] for service in self.params["services"] if service in self.containers]
        return all(status in ("exited", "dead") for status in statuses)

    def state(self, service: str) -> str:
        """Return 'healthy' or what is the case instead."""
        container = self.containers.get(service)
        if container is None:
            return "no container"
        state = container["State"]
        if state["Status"] != "running":
            # The kernel's word for it, of the container or of a process in it.
            starved = ", killed for want of memory" + limit_of(container) if state.get("OOMKilled") and state["ExitCode"] else ""
            return f"{state['Status']} (exit code {state['ExitCode']}){starved}"
        health = state.get("Health")
        if health is None:
            return NO_HEALTHCHECK
        if health["Status"] == "unhealthy" and health.get("Log"):
            return f"unhealthy: {shorten(health['Log'][-1]['Output'])}"
        return health["Status"]

    def loops(self, service: str) -> bool:
        """Return whether a service ends again and again, and waits for its next start right now."""
        container = self.containers.get(service)
        return container is not None and container["State"]["Status"] == "restarting" and container.get("RestartCount", 0) >= CRASH_LOOP

    def wait(self) -> list[dict[str, str]]:
        """Wait for every service and job and return a failure for each that is not healthy, or did not end well, in the end.

        A job that failed and a service in a crash loop end the wait: time does not help them. The latter comes first, as the others may wait for it.
        """
        deadline = time.monotonic() + self.params["timeout"]
        while True:
            self.pulse()
            self.refresh()
            services = {service: self.state(service) for service in self.params["services"]}
            ill = {service: state for service, state in services.items() if state != "healthy"}
            # A job that runs needs no healthcheck.
            jobs = {job: "running" if (state := self.state(job)) == NO_HEALTHCHECK else state for job in self.params["jobs"]}
            unfinished = {job: state for job, state in jobs.items() if state != SUCCESS}
            for service in ill:
                count = self.containers.get(service, {}).get("RestartCount", 0)
                if count:
                    ill[service] += f", started again {count} times"
            looping = {service: state for service, state in ill.items() if self.loops(service)}
            # Nor does it help a service that nobody can ask.
            failed = looping or NO_HEALTHCHECK in ill.values() or any(state.startswith("exited") for state in unfinished.values())
            if not (ill or unfinished) or failed or time.monotonic() >= deadline:
                break
            self._ask_early([service for service, state in services.items() if state == "starting"])
            time.sleep(0.2)
        return [self.failure(service, "health", "healthy", state) for service, state in {**looping, **ill}.items()] + [
            self.failure(job, "run to its end", SUCCESS, state) for job, state in unfinished.items()
        ]

    def _ask_early(self, starting: list[str]) -> None:
        """Ask services by the commands of their healthchecks, and note since when they answer: the Engine asks first after a whole interval."""
        now = time.monotonic()
        if not self.params.get("settle") or now - self.asked_early < EARLY_INTERVAL:
            return
        self.asked_early = now
        starts = self._running()
        waiting = [service for service in starting if starts[service] not in self.answering.keys() | self.hanging]

        def answers(service: str) -> bool:
            config = self.containers[service]["Config"]
            kind, *command = (config.get("Healthcheck") or {}).get("Test") or ["NONE"]
            if kind == "CMD-SHELL":
                command = [*(config.get("Shell") or ["/bin/sh", "-c"]), *command]
            try:
                return bool(command) and self.engine.execute(self.containers[service]["Id"], command, {}, EARLY_SECONDS).status == 0
            except EngineTimeout:
                self.hanging.add(starts[service])
            except EngineError:
                pass
            return False

        with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
            self.answering |= {starts[service]: time.monotonic() for service, well in zip(waiting, pool.map(answers, waiting), strict=True) if well}

    def _running(self) -> dict[str, tuple[str, str, int]]:
        """Return what tells each service's container, and its present start, from another one."""
        return {
            service: (container["Id"], container["State"].get("StartedAt", ""), container.get("RestartCount", 0))
            for service in self.params["services"]
            if (container := self.containers.get(service))
        }

    def settle(self) -> list[dict[str, str]]:
        """Watch the services, which are healthy now, for as long as was asked, and return a failure for each that does not stay so.

        The time since the present start of the last of them answered counts, up to half of it: the rest comes after all checks, which they have to bear.
        """
        seconds, now = self.params["settle"], time.monotonic()
        expected = f"to stay healthy for {seconds} s"
        self.refresh()
        first = self._running()
        began = max([now - seconds / 2, *(self.answering.get(start, now) for start in first.values())])
        while True:
            lost = {}
            for service, start in self._running().items():
                if start != first.get(service):
                    code = self.containers[service]["State"]["ExitCode"]
                    lost[service] = f"it ended and was started again (exit code {code})"
            lost |= {service: state for service in self.params["services"] if (state := self.state(service)) not in ("healthy", NO_HEALTHCHECK)}
            if lost or time.monotonic() - began >= seconds:
                return [self.failure(service, "stability", expected, got) for service, got in lost.items()]
            time.sleep(0.5)
            self.pulse()
            self.refresh()

    def failure(self, service: str, check: str, expected: str, got: str) -> dict[str, str]:
        """Describe one failure."""
        look = f"docker compose -p {self.params['project']} logs {service}"
        return {"service": service, "check": check, "expected": expected, "got": got, "look": look}

    def target(self, check: dict) -> Target:
        """Return where to ask a check's question: at the address of the host, or at those of the container."""
        tls = Tls(check["certificate"], check["server_name"]) if check["certificate"] else None
        if check["address"]:
            return Target(["127.0.0.1" if check["address"] == "0.0.0.0" else check["address"]], check["port"], tls)
        networks = self.containers.get(check["service"], {}).get("NetworkSettings", {}).get("Networks", {})
        return Target([network["IPAddress"] for network in networks.values() if network.get("IPAddress")], check["port"], tls)

    def _get(self, check: dict, path: str) -> Answer:
        """Return the answer to a GET. Where all are healthy and a proxy says that what is behind it is not there, it is asked again for a while."""
        deadline = time.monotonic() + (GATEWAY_SECONDS if self.all_are_healthy else 0)
        while True:
            try:
                answer = exchange(self.target(check), "GET", path)
            except HttpError as error:
                raise Failed(f"an HTTP answer to GET {path}", str(error)) from None
            if answer.status not in GATEWAY_FAILURES or answer.status == check["status"] or time.monotonic() >= deadline:
                return answer
            time.sleep(0.2)

    def check_http(self, check: dict) -> None:
        """Compare status, headers and text."""
        path, status = check["path"] or "/", check["status"] or 200
        answer = self._get(check, path)
        if answer.status != status:
            raise Failed(f"GET {path} to answer {status}", f"{answer.status} {shorten(answer.text)}")
        for name, value in check["headers"].items():
            if answer.headers.get(name) != str(value):
                raise Failed(f"GET {path} to answer with {name}: {value}", shorten(answer.headers.get(name) or "no such header"))
        if check["contains"] and check["contains"] not in answer.text:
            raise Failed(f"GET {path} to contain {check['contains']!r}", shorten(answer.text))
        if check["json"]:
            if len(answer.body) > LONGEST_ANSWER:
                raise Failed(f"GET {path} to answer with at most {LONGEST_ANSWER // 1024} KiB of JSON", f"{len(answer.body) // 1024} KiB")
            failure = self.failure(check["service"], check["name"], f"GET {path}", "")
            self.answers.append({**check["json"], "text": answer.text, "failure": failure})

    def check_probe(self, check: dict) -> None:
        """Have a service ask its dependencies with values it cannot know beforehand."""
        chosen, path = choose(), check["path"] or PROBE_PATH
        try:
            answer = exchange(self.target(check), "POST", path, body=json.dumps(fill(check["send"], chosen)), headers={"Content-Type": "application/json"})
        except HttpError as error:
            raise Failed(f"an HTTP answer to POST {path}", str(error)) from None
        if answer.status != 200:
            raise Failed(f"POST {path} to answer 200", f"{answer.status} {shorten(answer.text)}")
        try:
            got = {item["name"]: item for item in json.loads(answer.body)["checks"]}
        except (ValueError, KeyError, TypeError):
            raise Failed(f"POST {path} to answer JSON of the documented form", shorten(answer.text)) from None
        wanted = fill(check["expect"], chosen)
        wrong = {name: value for name, value in wanted.items() if name not in got or got[name].get("got") != value}
        if wrong:
            came = {name: shorten(f"{got[name].get('got')} {got[name].get('detail') or ''}") if name in got else "no such answer" for name in wrong}
            raise Failed(", ".join(f"{name}: {value}" for name, value in wrong.items()), ", ".join(f"{name}: {text}" for name, text in came.items()))

    def check_tcp(self, check: dict) -> None:
        """Prove that a port accepts connections, or that it does so on loopback only."""
        if check["expect"] == "loopback":
            self._check_loopback(check)
            return
        target = self.target(check)
        refusals = [accepts(address, target.port) for address in target.addresses] or ["there is no address to ask"]
        if all(refusals):
            raise Failed(f"port {target.port} to accept connections", ", ".join(refusals))

    def _check_loopback(self, check: dict) -> None:
        published = self.containers.get(check["service"], {}).get("NetworkSettings", {}).get("Ports") or {}
        if not any(int(binding["HostPort"]) == check["port"] for bindings in published.values() for binding in bindings or []):
            return
        try:
            addresses = host_addresses()
        except OSError as error:
            raise Failed(f"{ROUTES} to list the host's addresses", str(error.strerror)) from None
        for address in addresses:
            # One that has gone with another project's network meanwhile is somebody else's, or that of a gateway that answers for all.
            if not accepts(address, check["port"]) and address in host_addresses():
                raise Failed(f"port {check['port']} to answer on loopback only", f"{address}:{check['port']} accepts connections")

    def check_command(self, check: dict) -> None:
        """Run a command where the service runs, and compare exit code and output."""
        status = check["status"] or 0
        expected = f"{shorten(' '.join(check['command']), 80)} to end with exit code {status}"
        container = self.containers.get(check["service"])
        if container is None:
            raise Failed(expected, "no container")
        try:
            # As YAML and Compose spell them.
            environment = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in check["environment"].items()}
            ended = self.engine.execute(container["Id"], check["command"], environment, check["timeout"])
        except EngineTimeout:
            raise Failed(f"{expected} within {check['timeout']} s", "it still runs") from None
        except EngineError as error:
            raise Failed(expected, f"it was not started: {shorten(error.reason)}") from None
        if ended.status != status:
            raise Failed(expected, f"exit code {ended.status}: {last_lines(ended.output) or 'no output'}")
        if check["contains"] and check["contains"] not in ended.stdout:
            raise Failed(f"{shorten(' '.join(check['command']), 80)} to print {check['contains']!r}", last_lines(ended.output) or "no output")

    def check_logs(self, service: str) -> None:
        """Prove that the service's logs can be read, whether it has said something yet or not."""
        container = self.containers[service]
        query = {"stdout": "1", "stderr": "1", "tail": "1"}
        status, body = self.engine.request("GET", f"/containers/{container['Id']}/logs", query=query)
        if status != 200:
            driver = container["HostConfig"]["LogConfig"]["Type"]
            raise Failed("a log that can be read", f"status {status} from the log driver {driver}: {shorten(message_of(body))}")

    def check_image(self, service: str, reference: str) -> None:
        """Prove that a service runs the image of the release, whatever its tag has come to mean."""
        running = self.containers[service]["Image"]
        wanted = image_id(self.engine, reference)
        if wanted is None:
            raise Failed(f"{reference} to be among the Engine's images", f"not there; {running} runs")
        if running != wanted:
            raise Failed(f"to run {reference}, which is {wanted}", running)

    def tail(self, service: str, lines: int = 20) -> str:
        """Return the last lines of a service's log, nothing where it cannot be read."""
        container = self.containers.get(service)
        if container is None:
            return ""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        try:
            status, body = self.engine.request("GET", f"/containers/{container['Id']}/logs", query=query)
        except EngineError:
            return ""
        return b"".join(text for _stream, text in demultiplex(body)).decode(errors="replace") if status == 200 else ""

    def ask(self, task: tuple[str, str, Callable[[], None]]) -> dict[str, str] | None:
        """Run one check; return its failure, if it failed."""
        service, name, question = task
        try:
            question()
        except Failed as failed:
            return self.failure(service, name, failed.expected, failed.got)
        except EngineError as error:
            return self.failure(service, name, "an answer of the Docker Engine", shorten(str(error)))
        return None

    def tasks(self) -> list[tuple[str, str, Callable[[], None]]]:
        """List the checks to ask at this depth."""
        functions = {"http": self.check_http, "tcp": self.check_tcp, "probe": self.check_probe, "command": self.check_command}
        there = self.containers
        tasks = [(service, "logs", functools.partial(self.check_logs, service)) for service in self.params["services"] if service in there]
        tasks += [
            (service, "image", functools.partial(self.check_image, service, image)) for service, image in self.params["images"].items() if service in there
        ]
        tasks += [
            (check["service"], check["name"], functools.partial(functions[check["kind"]], check))
            for check in self.params["checks"]
            if check["depth"] == "basic" or self.params["depth"] == "full"
        ]
        return tasks

    def verify(self) -> tuple[int, list[dict[str, str]]]:
        """Return the number of checks that passed, and the failures."""
        failures = self.wait()
        self.all_are_healthy = not failures
        tasks = self.tasks()
        with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
            failures += [failure for failure in pool.map(self.ask, tasks) if failure]
        # Last, so that the checks are a part of what the services have to bear.
        if not failures and self.params.get("settle"):
            failures += self.settle()
        return len(tasks) + len(self.params["services"]) + len(self.params["jobs"]) - len(failures), failures


def only_beside(params: dict[str, Any]) -> None:
    """Leave what can be asked of the newest containers of some services alone, while older ones still answer at the addresses that people use."""
    chosen = params["beside"]
    params["services"] = [service for service in params["services"] or [] if service in chosen]
    params["images"] = {service: image for service, image in (params["images"] or {}).items() if service in chosen}
    params["checks"] = [check for check in params["checks"] or [] if check["service"] in chosen and not check["address"] and check["depth"] == "basic"]


def problems_of(checks: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the checks' form, where the argument spec cannot say it."""
    problems = []
    for check in checks:
        kind, expect = check["kind"], check["expect"]
        where = f"{check['service']}, {check['name']}: expect"
        if kind == "probe" and not (isinstance(expect, dict) and expect):
            problems.append(f"{where} must be a mapping of answers' names to their values for a probe.")
        elif kind == "tcp" and expect not in (None, "open", "loopback"):
            problems.append(f"{where} must be open or loopback for a tcp check.")
        elif kind in ("http", "command") and expect is not None:
            problems.append(f"{where} is for the kinds probe and tcp. Use status, headers, contains or json.")
        if kind != "http" and check["json"]:
            problems.append(f"{check['service']}, {check['name']}: json is for the kind http.")
    return problems


def from_manifest(params: dict[str, Any]) -> None:
    """Fill in what the parameters do not say from the manifest that they name; raise ManifestError."""
    path = params["manifest"]
    written = manifest.read(path)
    named = {name: written[name] for name in FROM_MANIFEST if params[name] is None and written[name] is not None}
    checked = ArgumentSpecValidator({name: FROM_MANIFEST[name] for name in named}).validate(named)
    if checked.error_messages:
        raise manifest.ManifestError(f"{path} is not a manifest: {'; '.join(checked.error_messages)}. Deploy again.")
    params.update(checked.validated_parameters)
    if not params["project"]:
        raise manifest.ManifestError(f"{path} does not name its Compose project. Give project, or deploy again.")
    if named.get("services") == []:
        raise manifest.ManifestError(f"{path} names no services, so there is nothing to verify. Deploy again.")
