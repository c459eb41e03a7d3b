#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gather what the roles of this collection need to know of a host, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_facts
short_description: Gather facts of a Docker host
version_added: 0.1.0
description:
  - Tells the truth about a machine without Docker as about one that runs the stack, and changes nothing.
options:
  images:
    description: References to look up among the Engine's images.
    type: list
    elements: str
    default: []
  source_directory:
    description: Directory where the role images keeps its recorded source.
    type: path
    default: /var/lib/campaign-images
  release_directory:
    description: Directory of the stack.
    type: path
  project:
    description: Compose project, to find out whose its containers, volumes and networks are, and whether P(campaign.platform.firewall#module) guards it.
    type: str
  volume_files:
    description: Files to read in volumes, by the volume's name. Each is a pattern such as C(*/PG_VERSION), relative to the volume.
    type: dict
    default: {}
  image_variables:
    description: Names of variables of the environment that images set, to read from those of O(images) that are present.
    type: list
    elements: str
    default: []
  ports:
    description: Ports to find out about.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: IPv4 address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
  wait:
    description: Seconds to wait for an Engine that does not answer yet.
    type: int
    default: 0
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: full
    description: Only reads.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Gather facts of the Docker host
  campaign.platform.host_facts:
    release_directory: /opt/campaign
"""

RETURN = r"""
ansible_facts:
  description: One fact, C(campaign_host).
  returned: always
  type: dict
  contains:
    campaign_host:
      description:
        - C(distribution) (C(id), C(version_id), C(codename)), C(architecture) (C(amd64), C(arm64) or the kernel's own name),
          C(init) (C(systemd) or C(other)), C(memory_mb), C(disk_free_mb) at the Engine's data root,
          C(apt_sources) (the machine's first Debian archive, with C(uri) and C(signed_by), or null),
          C(addresses) (the machine's IPv4 addresses),
          C(engine) (C(version), C(api_version), C(data_root)) or null with C(engine_error), C(engine_installed) (whether there is a
          C(dockerd), running or not), C(compose) and C(buildx) (versions or
          null), C(ports) (each with C(address), C(port), C(local) (whether the machine has the address), C(busy), the Compose C(project) that publishes
          it, or null, and C(docker), whether a container of an Engine that does not answer keeps it open),
          C(client) (settings of the user that lead Docker's client to another Engine, builder or platform than those of this host, with their values),
          C(images) (references to ids, those only that are present), C(image_variables) (of each of these, by its reference, those that O(image_variables)
          names), C(images_source) and C(images_built) (the source that the role images recorded, and the
          keys of the images that are built although the others are pulled), C(firewall) (whether it is installed), C(owned) and C(stack).
        - C(owned) has what bears the name of O(project), where that is given. C(elsewhere) are the directories, other than O(release_directory), that
          containers of a Compose project of that name were started from. C(volumes) and C(networks) are those that belong to it or whose name begins with
          its name, and the volumes that O(volume_files) names, each with C(project), the one that it belongs to, or null. A volume also has C(files), the
          first lines of the files that O(volume_files) names by their paths, or null where the volume cannot be read.
        - C(stack) has the id of the C(current) release and of the C(attempted) one, whose deploy did not end with success, or null; and from the manifest
          of the current one, or of the attempted one where there is no current one, C(release) (which of the two it is, or null), C(project),
          C(compose_files), C(env_file), C(services), C(jobs), C(foundations) and C(images). They are empty, and C(manifest_error) says why, where that
          manifest cannot be read. C(lock) says who holds the stack's lock, with the C(age) of the last sign of life in seconds, or is null.
      type: dict
"""

import concurrent.futures
import errno
import glob
import hashlib
import ipaddress
import json
import os
import platform
import re
import shutil
import socket
import time
from collections.abc import Callable, Collection

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils import lock, manifest
from ansible_collections.campaign.platform.plugins.module_utils.engine import PROJECT, Engine, EngineError, client_directory, started_elsewhere
from ansible_collections.campaign.platform.plugins.module_utils.host import is_busy, link_target, read, tool_version

MEMINFO = "/proc/meminfo"
ADDRESSES = "/proc/net/fib_trie"
FIREWALL_DIRECTORY = "/usr/local/sbin"
# While it removes a large volume, the Engine answers nobody who asks for volumes.
ENGINE_SECONDS = 120.0
# A few: what is removed between two questions may make one of them fail.
ENGINE_ATTEMPTS = 3
ENGINE_PATH = "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin:/snap/bin"


def distribution() -> dict:
    """Return what /etc/os-release says."""
    fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', read("/etc/os-release"), re.MULTILINE))
    return {"id": fields.get("ID", ""), "version_id": fields.get("VERSION_ID", ""), "codename": fields.get("VERSION_CODENAME", "")}


def debian_archive() -> dict | None:
    """Return URI and keyring of the machine's own Debian archive, from either format of apt's sources."""
    codename = distribution()["codename"]
    for path in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", read(path)):
            fields = dict(re.findall(r"^([A-Za-z-]+):\s*(.*)$", stanza, re.MULTILINE))
            if codename in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                return {"uri": fields["URIs"].split()[0], "signed_by": fields.get("Signed-By")}
    for path in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*.list"))]:
        for options, uri in re.findall(rf"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+{codename}\s+.*\bmain\b", read(path), re.MULTILINE):
            signed = re.search(r"signed-by=(\S+)", options)
            return {"uri": uri, "signed_by": signed[1] if signed else None}
    return None


def proxied_ports() -> set[int]:
    """Return the ports that a container of an Engine keeps open although that does not answer. Whose containers these are, it alone knows."""
    commands = (re.match(r"(?:[^\0]*/)?docker-proxy\0(?:.*\0)?-host-port\0(\d+)\0", read(path), re.DOTALL) for path in glob.glob("/proc/[0-9]*/cmdline"))
    return {int(found[1]) for found in commands if found}


def is_local(address: str) -> bool:
    """Return whether the machine has an address, so that something can listen there and be reached.

    The kernel lets a program listen on the address of a broadcast or of a group too, where no connection can be made to.
    """
    if ipaddress.ip_address(address).is_multicast or address == "255.255.255.255" or address in broadcasts():
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        try:
            listener.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def broadcasts() -> set[str]:
    """Return the addresses of the machine's own networks at which all of their machines are meant."""
    return set(re.findall(r"\|-- (\S+)\n\s+/32 link BROADCAST", read(ADDRESSES)))


def addresses() -> list[str]:
    """Return the machine's own IPv4 addresses, without loopback."""
    found = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", read(ADDRESSES))
    return sorted({address for address in found if not address.startswith("127.")}, key=socket.inet_aton)


def client_settings(socket_path: str, architecture: str) -> dict[str, str]:
    """Return the settings, with their values, that would have Docker's client ask another Engine, build elsewhere or build for another platform.

    One Engine is asked for everything, so that none of them may count for a part only.
    """
    here = f"unix://{socket_path}"
    own = {name: os.environ.get(name, "") for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_DEFAULT_PLATFORM", "BUILDX_BUILDER")}
    refused = {}
    directory = client_directory()
    # As the client does: a host in the environment comes before a context.
    if own["DOCKER_HOST"]:
        if own["DOCKER_HOST"] not in (here, f"unix://{os.path.realpath(socket_path)}"):
            refused["DOCKER_HOST"] = own["DOCKER_HOST"]
    else:
        context, setting = own["DOCKER_CONTEXT"], "DOCKER_CONTEXT"
        if not context:
            context, setting = str(read_json(os.path.join(directory, "config.json")).get("currentContext") or ""), f"currentContext in {directory}/config.json"
        if context not in ("", "default") and context_host(directory, context) != here:
            refused[setting] = context
    for name in ("DOCKER_TLS", "DOCKER_TLS_VERIFY"):
        # The client takes any text for true, 0 as well.
        if os.environ.get(name):
            refused[name] = os.environ[name]
    if own["DOCKER_DEFAULT_PLATFORM"] not in ("", f"linux/{architecture}"):
        refused["DOCKER_DEFAULT_PLATFORM"] = own["DOCKER_DEFAULT_PLATFORM"]
    if own["BUILDX_BUILDER"] not in ("", "default"):
        refused["BUILDX_BUILDER"] = own["BUILDX_BUILDER"]
    return refused


def read_json(path: str) -> dict:
    """Return the mapping in a file, an empty one where there is none."""
    try:
        found = json.loads(read(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def context_host(directory: str, context: str) -> str | None:
    """Return the address of the Engine that a context of Docker's client stands for."""
    identifier = hashlib.sha256(context.encode()).hexdigest()
    endpoints = read_json(os.path.join(directory, "contexts/meta", identifier, "meta.json")).get("Endpoints") or {}
    return (endpoints.get("docker") or {}).get("Host")


def volume_files(volume: dict, patterns: list[str]) -> dict[str, str] | None:
    """Return the first line of the files that patterns name in a volume, by their paths in it; None where it cannot be read."""
    options = volume.get("Options") or {}
    # A directory of the host that is mounted as a volume is not there under the volume's own path while nothing uses it.
    root = options["device"] if options.get("type") in (None, "none") and options.get("device") else volume["Mountpoint"]
    is_away = options.get("device") and root == volume["Mountpoint"] and not os.path.ismount(root)
    if is_away or not os.access(root, os.R_OK | os.X_OK):
        return None
    found = {}
    for pattern in patterns:
        for path in glob.glob(os.path.join(glob.escape(root), pattern)):
            if os.path.isfile(path):
                found[os.path.relpath(path, root)] = read(path).partition("\n")[0][:100].strip()
    return found


def owned(engine: Engine, params: dict, containers: list[dict]) -> dict:
    """Return whose the containers, volumes and networks are that bear the name of the project; raise EngineError."""
    project = params["project"]
    if not project:
        return {"elsewhere": [], "volumes": {}, "networks": {}}

    def concerned(items: list[dict], named: Collection[str] = ()) -> dict[str, dict]:
        owners = {item["Name"]: (item.get("Labels") or {}).get(PROJECT) for item in items}
        return {name: {"project": owner} for name, owner in owners.items() if owner == project or name.startswith(f"{project}_") or name in named}

    volumes = engine.get("/volumes").get("Volumes") or []
    wanted = params["volume_files"]
    found = concerned(volumes, wanted)
    for volume in volumes:
        if volume["Name"] in found:
            found[volume["Name"]]["files"] = volume_files(volume, wanted.get(volume["Name"], []))
    origins = {
        started_elsewhere(container["Labels"], params["release_directory"] or "/")
        for container in containers
        if container["Labels"].get(PROJECT) == project and params["release_directory"]
    }
    return {"elsewhere": sorted(origins - {None}), "volumes": found, "networks": concerned(engine.get("/networks"))}


def await_engine(engine: Engine, seconds: int) -> None:
    """Wait until the Engine answers, or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            engine.get("/version")
        except EngineError:
            time.sleep(0.5)
        else:
            return


def engine_facts(engine: Engine, params: dict) -> dict:
    """Return what the Engine says of itself, of images and of published ports."""
    await_engine(engine, params["wait"])
    try:
        version = engine.get("/version")
    except EngineError as error:
        nothing = {"images": {}, "image_variables": {}, "published": []}
        return {"engine": None, "engine_error": str(error), **nothing, "owned": {"elsewhere": [], "volumes": {}, "networks": {}}}
    return retried(lambda: answers(Engine(engine.socket_path, timeout=ENGINE_SECONDS), params, version))


def retried(ask: Callable[[], dict]) -> dict:
    """Return what an Engine that runs answers, asked again where it fails; raise EngineError."""
    for _attempt in range(ENGINE_ATTEMPTS - 1):
        try:
            return ask()
        except EngineError as error:
            if not error.status:
                raise
            time.sleep(1)
    return ask()


def answers(engine: Engine, params: dict, version: dict) -> dict:
    """Return what an Engine that runs says; raise EngineError."""
    info = engine.get("/info")
    images, containers = engine.get("/images/json"), engine.get("/containers/json", all="1")
    belongings = owned(engine, params, containers)
    present = present_images(images, params["images"])
    variables = {reference: image_variables(engine, identifier, params["image_variables"]) for reference, identifier in present.items()}
    published = [
        (port.get("IP"), port["PublicPort"], container["Labels"].get("com.docker.compose.project") or container["Names"][0].lstrip("/"))
        for container in containers
        for port in container["Ports"]
        if port.get("PublicPort") and port["Type"] == "tcp"
    ]
    return {
        "engine": {"version": version["Version"], "api_version": version["ApiVersion"], "data_root": info["DockerRootDir"]},
        "engine_error": None,
        "images": present,
        "image_variables": variables,
        "published": published,
        "owned": belongings,
    }


def present_images(images: list[dict], wanted: list[str]) -> dict[str, str]:
    """Return the ids of the wanted images that are present, by reference."""
    known = {}
    for image in images:
        for reference in (image.get("RepoTags") or []) + (image.get("RepoDigests") or []):
            known[reference] = image["Id"]
    return {reference: known[familiar(reference)] for reference in wanted if familiar(reference) in known}


def image_variables(engine: Engine, identifier: str, names: list[str]) -> dict[str, str]:
    """Return those variables of its environment that an image sets, none where it is gone meanwhile; raise EngineError."""
    status, body = engine.request("GET", f"/images/{identifier}/json") if names else (0, b"")
    if status != 200:
        return {}
    pairs = [text.partition("=") for text in json.loads(body)["Config"].get("Env") or []]
    return {name: value for name, _equals, value in pairs if name in names}


def familiar(reference: str) -> str:
    """Return a reference as the Engine lists it: without Docker Hub's own name, and by digest where there is one."""
    name, at, digest = reference.partition("@")
    name = re.sub(r"^docker\.io/(library/)?", "", name)
    if at:
        return f"{re.sub(r':[^:/]+$', '', name)}@{digest}"
    return name if re.search(r":[^/]+$", name) else f"{name}:latest"


def publisher(published: list[tuple[str | None, int, str]], address: str, port: int) -> str | None:
    """Return who publishes a port on an address, or on all addresses, of which this one is one."""
    return next((project for on, number, project in published if number == port and (on == address or "0.0.0.0" in (on, address))), None)


def stack_facts(directory: str | None) -> dict:
    """Return which releases there are, and what the manifest of the one in use says, or of the one that was attempted where none is in use."""
    found = {name: link_target(directory, name) for name in ("current", "attempted")}
    link = next((name for name, release in found.items() if release), None)
    read_here = {"project": None, "compose_files": [], "env_file": None, "services": [], "jobs": [], "foundations": [], "images": {}}
    facts = {**found, "release": found[link] if link else None, **read_here, "manifest_error": None, "lock": lock.read(directory) if directory else None}
    if link:
        try:
            written = manifest.read(os.path.join(directory or "", link, manifest.NAME))
        except manifest.ManifestError as error:
            return {**facts, "manifest_error": str(error)}
        facts.update({name: written[name] for name in read_here})
    return facts


def existing_parent(path: str) -> str:
    """Return the nearest directory that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def gather(params: dict) -> dict:
    """Return the facts; the slow questions are asked at once."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compose = pool.submit(tool_version, "docker", "compose", "version", "--short")
        buildx = pool.submit(tool_version, "docker", "buildx", "version")
        facts = engine_facts(Engine(params["socket"]), params)
        published = facts.pop("published")
        proxied = set() if facts["engine"] else proxied_ports()
        data_root = facts["engine"]["data_root"] if facts["engine"] else "/var/lib/docker"
        machine = platform.machine()
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
        recorded = read(os.path.join(params["source_directory"], "source")).split()
        memory = re.search(r"^MemTotal:\s+(\d+) kB", read(MEMINFO), re.MULTILINE)
        return {
            **facts,
            "engine_installed": shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:{ENGINE_PATH}") is not None,
            "distribution": distribution(),
            "architecture": architecture,
            "addresses": addresses(),
            "client": client_settings(params["socket"], architecture),
            "init": "systemd" if os.path.isdir("/run/systemd/system") else "other",
            "memory_mb": int(memory[1]) // 1024 if memory else 0,
            "disk_free_mb": shutil.disk_usage(existing_parent(data_root)).free // 2**20,
            "apt_sources": debian_archive(),
            "ports": [
                {
                    **item,
                    "local": is_local(item["address"]),
                    "busy": is_busy(item["address"], item["port"]),
                    "project": publisher(published, item["address"], item["port"]),
                    "docker": item["port"] in proxied,
                }
                for item in params["ports"]
            ],
            "images_source": recorded[0] if recorded else None,
            "images_built": recorded[1:],
            "stack": stack_facts(params["release_directory"]),
            "firewall": bool(params["project"]) and os.path.exists(os.path.join(FIREWALL_DIRECTORY, f"docker-firewall-{params['project']}")),
            "compose": compose.result(),
            "buildx": buildx.result(),
        }


def main() -> None:
    """Entry point."""
    port = {"address": {"type": "str", "required": True}, "port": {"type": "int", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "list", "elements": "str", "default": []},
            "source_directory": {"type": "path", "default": "/var/lib/campaign-images"},
            "release_directory": {"type": "path"},
            "project": {"type": "str"},
            "volume_files": {"type": "dict", "default": {}},
            "image_variables": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "dict", "default": [], "options": port},
            "wait": {"type": "int", "default": 0},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    try:
        facts = gather(module.params)
    except EngineError as error:
        module.fail_json(
            msg=f"The Docker Engine runs, and does not say what there is: {error}. Nothing was changed. It may be busy, as while it removes a large volume; "
            "otherwise look at its log (journalctl -u docker, or /var/log/docker.log).",
        )
    if facts["images_source"] not in (None, "pull", "build"):
        record = os.path.join(module.params["source_directory"], "source")
        module.fail_json(msg=f"{record} holds {facts['images_source'][:40]!r}. Write pull or build, or remove it, so that the choice is made again.")
    module.exit_json(changed=False, ansible_facts={"campaign_host": facts})


if __name__ == "__main__":
    main()
