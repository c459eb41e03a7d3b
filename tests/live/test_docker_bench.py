# SPDX-License-Identifier: GPL-3.0-or-later
"""Sections 4 and 5 of the CIS Docker Benchmark, by the numbers and titles of docker-bench-security 1.6, as assertions about a prod stack.

A check returns what is wrong. What is wrong and stays so has a waiver with the reason, and a waiver that is not needed fails as well.
docs/security.md shows both tables' sense to people.
"""

import datetime
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted(ROOT.glob("files/**/Dockerfile"))
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|(ACCESS|PRIVATE|API)_?KEY", re.IGNORECASE)
MAX_AGE = datetime.timedelta(days=90)
# No running service needs any of these; each helps whoever broke into one.
TOOLS = ["cc", "gcc", "make", "go", "git", "ssh", "sshd", "wget", "nc", "telnet", "tcpdump", "gdb", "strace", "sudo"]
SENSITIVE = re.compile(r"/($|(boot|dev|etc|lib|lib64|proc|root|run|sys|usr|var)(/|$))")
CHECKS: dict[str, "Check"] = {}


@dataclass(frozen=True)
class Check:
    number: str
    title: str
    problems: Callable


@dataclass(frozen=True)
class Waiver:
    reason: str
    # Whether the waiver is for this host; where it is not, there must be nothing wrong.
    applies: Callable = lambda _host: True


def check(number: str, title: str):
    def register(function):
        CHECKS[number] = Check(number, title, function)
        return function

    return register


def each(host, is_wrong: Callable[[dict], object]) -> list[str]:
    """Return the services whose container is wrong."""
    return sorted(service for service, container in host.containers.items() if is_wrong(container))


def settings(name: str, *good):
    """Return a judge of one entry of a container's HostConfig."""
    return lambda container: container["HostConfig"].get(name) not in good


def instructions(text: str) -> list[str]:
    """Return the instructions of a Dockerfile, each on a line of its own, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines() if line.strip()]


def in_dockerfiles(is_wrong: Callable[[str], object]) -> list[str]:
    """Return the instructions of this project's Dockerfiles that are wrong."""
    assert DOCKERFILES
    return [f"{path.relative_to(ROOT)}: {line[:80]}" for path in DOCKERFILES for line in instructions(path.read_text()) if is_wrong(line)]


def in_sources(pattern: str) -> list[str]:
    """Return the lines of the roles, playbooks and plugins that match."""
    files = [path for folder in ("roles", "playbooks", "plugins") for path in (ROOT / folder).rglob("*") if path.suffix in (".yml", ".py", ".j2", ".sh")]
    assert files
    return [f"{path.relative_to(ROOT)}: {line.strip()}" for path in files for line in path.read_text().splitlines() if re.search(pattern, line)]


@check("4.1", "Ensure that a user for the container has been created")
def user(host):
    return each(host, lambda container: not re.match(r"[1-9]\d*(:[1-9]\d*)?$", container["Config"]["User"]))


@check("4.2", "Ensure that containers use only trusted base images")
def trusted_bases(_host):
    # A base is an argument, given by the role images from its own catalogue, or a stage of the same file.
    def is_foreign(path: Path, line: str) -> bool:
        stages = re.findall(r"^FROM .* AS (\S+)$", path.read_text(), re.MULTILINE)
        source = line.split()[1]
        return not re.fullmatch(r"\$\{\w+_IMAGE\}", source) and source not in stages

    return [
        f"{path.relative_to(ROOT)}: {line}"
        for path in DOCKERFILES
        for line in instructions(path.read_text())
        if line.startswith("FROM ") and is_foreign(path, line)
    ]


@check("4.3", "Ensure that unnecessary packages are not installed in the container")
def unnecessary_packages(host):
    script = "; ".join(f"command -v {tool}" for tool in TOOLS)
    found = {service: host.execute(service, "sh", "-c", script, check=False).stdout.decode().split() for service in host.services}
    return [f"{service}: {' '.join(tools)}" for service, tools in found.items() if tools]


@check("4.4", "Ensure images are scanned and rebuilt to include security patches")
def rebuilt(host):
    def age(image: dict) -> datetime.timedelta:
        created = datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", image["Created"]))
        return datetime.datetime.now(datetime.UTC) - created

    return [f"{service}: {age(image).days} days old" for service, image in host.images.items() if age(image) > MAX_AGE]


@check("4.5", "Ensure Content trust for Docker is Enabled")
def content_trust(host):
    return [] if "DOCKER_CONTENT_TRUST=1" in host.text("env").splitlines() else ["DOCKER_CONTENT_TRUST is not set"]


@check("4.6", "Ensure that HEALTHCHECK instructions have been added to container images")
def image_healthchecks(host):
    return sorted(service for service, image in host.images.items() if not image["Config"].get("Healthcheck"))


@check("4.7", "Ensure update instructions are not used alone in the Dockerfile")
def update_alone(_host):
    return in_dockerfiles(lambda line: "apt-get update" in line and "apt-get install" not in line)


@check("4.8", "Ensure setuid and setgid permissions are removed")
def setuid(host):
    find = ("find", "/", "-xdev", "-type", "f", "-perm", "/6000")
    found = {service: host.execute(service, *find, check=False, user="0:0").stdout.decode().split() for service in host.services}
    return [f"{service}: {' '.join(files)}" for service, files in found.items() if files]


@check("4.9", "Ensure that COPY is used instead of ADD in Dockerfiles")
def add(_host):
    return in_dockerfiles(lambda line: re.match(r"\s*ADD\s", line, re.IGNORECASE))


@check("4.10", "Ensure secrets are not stored in Dockerfiles")
def secrets_in_images(host, stack_secrets):
    found = in_dockerfiles(lambda line: re.match(r"\s*(ENV|ARG)\s", line) and SECRET_NAME.search(line))
    for service, image in host.images.items():
        history = host.text("docker", "image", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image["Id"])
        text = history + json.dumps(image)
        found += [f"{service}: {name}" for name, value in stack_secrets.items() if value in text]
        found += [f"{service}: {entry.partition('=')[0]}" for entry in image["Config"]["Env"] if SECRET_NAME.search(entry.partition("=")[0])]
    return found


@check("4.11", "Ensure only verified packages are installed")
def verified_packages(_host):
    # apt verifies unless told otherwise; npm ci takes nothing that differs from the lockfile's hashes; Go asks its checksum database.
    unverified = re.compile(
        r"--allow-unauthenticated|--force-yes|trusted=yes|AllowInsecure|npm (i|install) |-insecure|GONOSUMCHECK=|GOINSECURE=|--no-check|-k\b.*https"
    )
    return in_dockerfiles(unverified.search) + in_sources(r"trusted=yes|trusted: (true|yes)|allow_unauthenticated|Trusted: yes")


@check("4.12", "Ensure all signed artifacts are validated")
def signed_artifacts(_host):
    # A source of Debian packages that names its keyring is validated against it: the bases and all that is installed on them.
    sources = [path for path in (ROOT / "roles").rglob("*.yml") if re.search(r"^ +URIs:", path.read_text(), re.MULTILINE)]
    assert sources
    return [
        str(path.relative_to(ROOT)) for path in sources if path.read_text().count("Signed-By:") < len(re.findall(r"^ +URIs:", path.read_text(), re.MULTILINE))
    ]


@check("5.1", "Ensure swarm mode is not Enabled, if not needed")
def swarm(host):
    return [] if host.info["Swarm"]["LocalNodeState"] == "inactive" else [host.info["Swarm"]["LocalNodeState"]]


@check("5.2", "Ensure that, if applicable, an AppArmor Profile is enabled")
def apparmor(host):
    return each(host, lambda container: container["AppArmorProfile"] in ("", "unconfined"))


@check("5.3", "Ensure that, if applicable, SELinux security options are set")
def selinux(host):
    applicable = any("selinux" in option for option in host.info["SecurityOptions"])
    return each(host, lambda container: (applicable and not container["ProcessLabel"]) or "label=disable" in container["HostConfig"]["SecurityOpt"])


@check("5.4", "Ensure that Linux kernel capabilities are restricted within containers")
def capabilities(host):
    return each(host, lambda container: container["HostConfig"]["CapAdd"] or container["HostConfig"]["CapDrop"] != ["ALL"])


@check("5.5", "Ensure that privileged containers are not used")
def privileged(host):
    return each(host, settings("Privileged", False))


@check("5.6", "Ensure sensitive host system directories are not mounted on containers")
def sensitive_mounts(host):
    return each(host, lambda container: any(mount["Type"] == "bind" and SENSITIVE.match(mount["Source"]) for mount in container["Mounts"]))


@check("5.7", "Ensure sshd is not run within containers")
def sshd(host):
    return [service for service, container in host.services.items() if "sshd" in host.text("docker", "top", container["Id"], "-eo", "pid,comm")]


def bindings(container: dict) -> list[dict]:
    return [binding for bound in container["NetworkSettings"]["Ports"].values() for binding in bound or []]


def privileged_ports(host) -> list[str]:
    return each(host, lambda container: any(int(binding["HostPort"]) < 1024 for binding in bindings(container)))


@check("5.8", "Ensure privileged ports are not mapped within containers")
def privileged_ports_mapped(host):
    return privileged_ports(host)


@check("5.9", "Ensure that only needed ports are open on the container")
def needed_ports(host, is_tls):
    needed = {"frontend": {"8080/tcp", "8443/tcp"} if is_tls else {"8080/tcp"}}
    opened = {service: {port for port, bound in container["NetworkSettings"]["Ports"].items() if bound} for service, container in host.containers.items()}
    return [f"{service}: {' '.join(ports)}" for service, ports in opened.items() if ports != needed.get(service, set())]


@check("5.10", "Ensure that the host's network namespace is not shared")
def host_network(host):
    return each(host, lambda container: container["HostConfig"]["NetworkMode"] == "host")


@check("5.11", "Ensure that the memory usage for containers is limited")
def memory(host):
    return each(host, lambda container: container["HostConfig"]["Memory"] <= 0)


@check("5.12", "Ensure that CPU priority is set appropriately on containers")
def cpu(host):
    return each(host, lambda container: container["HostConfig"]["CpuShares"] <= 0 or container["HostConfig"]["NanoCpus"] <= 0)


@check("5.13", "Ensure that the container's root filesystem is mounted as read only")
def read_only(host):
    return each(host, settings("ReadonlyRootfs", True))


def wildcard(host) -> list[str]:
    return each(host, lambda container: any(binding["HostIp"] in ("", "0.0.0.0", "::") for binding in bindings(container)))


@check("5.14", "Ensure that incoming container traffic is bound to a specific host interface")
def bound_to_an_interface(host):
    return wildcard(host)


@check("5.15", "Ensure that the 'on-failure' container restart policy is set to '5'")
def restart_policy(host):
    return each(host, settings("RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 5}))


@check("5.16", "Ensure that the host's process namespace is not shared")
def host_pid(host):
    return each(host, settings("PidMode", ""))


@check("5.17", "Ensure that the host's IPC namespace is not shared")
def host_ipc(host):
    return each(host, settings("IpcMode", "private"))


@check("5.18", "Ensure that host devices are not directly exposed to containers")
def devices(host):
    return each(host, lambda container: container["HostConfig"]["Devices"] or container["HostConfig"]["DeviceRequests"])


@check("5.19", "Ensure that the default ulimit is overwritten at runtime if needed")
def ulimits(host):
    core = {"Name": "core", "Hard": 0, "Soft": 0}
    return each(host, lambda container: core not in (container["HostConfig"]["Ulimits"] or []))


@check("5.20", "Ensure mount propagation mode is not set to shared")
def propagation(host):
    return each(host, lambda container: any("shared" in (mount.get("Propagation") or "") for mount in container["Mounts"]))


@check("5.21", "Ensure that the host's UTS namespace is not shared")
def host_uts(host):
    return each(host, settings("UTSMode", ""))


@check("5.22", "Ensure the default seccomp profile is not Disabled")
def seccomp(host):
    # 2: a filter is in force, whatever the Engine was told.
    opened = [service for service, container in host.services.items() if "Seccomp:\t2" not in host.text("cat", f"/proc/{container['State']['Pid']}/status")]
    return opened + each(host, lambda container: any("seccomp" in option for option in container["HostConfig"]["SecurityOpt"] or []))


@check("5.23", "Ensure that docker exec commands are not used with the privileged option")
def privileged_exec(_host):
    return in_sources(r"--privileged|^\s*privileged: (true|yes)|[\"']Privileged[\"']: True")


@check("5.24", "Ensure that docker exec commands are not used with the user=root option")
def root_exec(_host):
    found = in_sources(r"--user[= ]['\"]?(root|0)\b|^\s*user: ['\"]?(root|0)\b|[\"']User[\"']: [\"'](root|0)")
    # A container of its own, and not a command in another one: it gives a new volume to MinIO's user, with CHOWN as its only capability.
    return [problem for problem in found if problem != 'roles/stack/vars/main/services/minio.yml: user: "0:0"']


@check("5.25", "Ensure that cgroup usage is confirmed")
def cgroup_parent(host):
    return each(host, settings("CgroupParent", ""))


@check("5.26", "Ensure that the container is restricted from acquiring additional privileges")
def no_new_privileges(host):
    return each(host, lambda container: "no-new-privileges:true" not in (container["HostConfig"]["SecurityOpt"] or []))


@check("5.27", "Ensure that container health is checked at runtime")
def health(host):
    return sorted(service for service, container in host.services.items() if container["State"].get("Health", {}).get("Status") != "healthy")


@check("5.28", "Ensure that Docker commands always make use of the latest version of their image")
def latest_image(host):
    # It runs the image that its reference leads to on the host now, and the reference does not move by itself.
    def is_stale(container: dict) -> bool:
        reference = container["Config"]["Image"]
        return host.text("docker", "image", "inspect", "--format={{.Id}}", reference).strip() != container["Image"] or reference.endswith(":latest")

    return each(host, is_stale)


@check("5.29", "Ensure that the PIDs cgroup limit is used")
def pids(host):
    return each(host, lambda container: (container["HostConfig"]["PidsLimit"] or 0) <= 0)


@check("5.30", "Ensure that Docker's default bridge 'docker0' is not used")
def default_bridge(host):
    return each(host, lambda container: "bridge" in container["NetworkSettings"]["Networks"])


@check("5.31", "Ensure that the host's user namespaces are not shared")
def host_user_namespace(host):
    return each(host, settings("UsernsMode", ""))


@check("5.32", "Ensure that the Docker socket is not mounted inside any containers")
def docker_socket(host):
    return each(host, lambda container: any("docker.sock" in mount["Source"] or mount["Source"] in ("/run", "/var/run") for mount in container["Mounts"]))


WAIVERS = {
    "4.5": Waiver(
        "Content trust is Notary v1, which registries have given up. Prod pins a digest for every image that it pulls, which says more than a tag's signature."
    ),
    "4.6": Waiver("Upstream's images of PostGIS, Redis and MinIO have none. The Compose files give every service one, see 5.27."),
    "4.8": Waiver("Debian's base has su, mount and the like. No process can gain anything by them: no-new-privileges, no capabilities, nosuid."),
    "5.2": Waiver(
        "The kernel of this host has no AppArmor. Where it has, the Engine's default profile is in force.",
        lambda host: not any("apparmor" in option for option in host.info["SecurityOptions"]),
    ),
    "5.8": Waiver("People expect 80 and 443. nginx itself listens on 8080 and 8443, so no process needs a privilege for it.", privileged_ports),
    "5.14": Waiver("The frontend is there for everybody. stack_bind_address and docker_host_firewall_allowed_sources narrow that.", wildcard),
    "5.15": Waiver("on-failure does not come back when the Engine does. unless-stopped does, and a deploy that crashes over and over is rolled back."),
}


def test_every_check_of_both_sections_is_here():
    assert list(CHECKS) == [f"4.{number}" for number in range(1, 13)] + [f"5.{number}" for number in range(1, 33)]
    assert set(WAIVERS) <= set(CHECKS)


@pytest.mark.parametrize("number", CHECKS, ids=lambda number: f"{number} {CHECKS[number].title}")
def test_benchmark(host, number, request):
    names = CHECKS[number].problems.__code__.co_varnames[1 : CHECKS[number].problems.__code__.co_argcount]
    problems = CHECKS[number].problems(host, **{name: request.getfixturevalue(name) for name in names})
    waiver = WAIVERS.get(number)
    if waiver and waiver.applies(host):
        assert problems, f"{number} needs no waiver any more. Remove it: {waiver.reason}"
    else:
        assert problems == []
