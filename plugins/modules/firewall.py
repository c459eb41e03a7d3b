#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let only given sources reach the ports that a Compose project publishes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Let only given sources reach the ports that containers publish
version_added: 0.2.0
description:
  - A published port is forwarded by the Engine's own rules before a host's INPUT chain, and so before ufw, sees it. The Engine leaves the
    chain C(DOCKER-USER) to the administrator, and looks there first; this module puts a chain of the project's own into it.
  - Only what was forwarded to a published port is looked at (C(--ctstate DNAT) with the original port). Containers' own traffic, the host's
    own requests and what other projects publish are left alone.
  - Writes the rules into a script as well, which whoever starts the Engine runs first, so that a restart leaves no gap. IPv4 only, as the
    stack publishes on IPv4 addresses only.
options:
  project:
    description: Compose project, for the names of chain and script.
    type: str
    required: true
  sources:
    description: IPv4 networks in CIDR notation that may connect. With none, chain and script are removed.
    type: list
    elements: str
    default: []
  ports:
    description: The published ports.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: IPv4 address on which the port is published.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
  directory:
    description: Directory of the script.
    type: path
    default: /usr/local/sbin
attributes:
  check_mode:
    support: full
    description: Compares script and rules, and changes neither.
  diff_mode:
    support: full
    description: Shows the rules in force against those that are wanted.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Let the office in
  campaign.platform.firewall:
    project: campaign
    sources: [192.0.2.0/24]
    ports: [{address: 0.0.0.0, port: 443}]
"""

RETURN = r"""
script:
  description: Path of the script that installs the rules.
  type: str
  returned: always
"""

import hashlib
import ipaddress
import os
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule


def chain_of(project: str) -> str:
    """Return the chain's name, which iptables limits to 28 characters."""
    return f"STACK-{project}" if len(project) <= 22 else f"STACK-{hashlib.sha256(project.encode()).hexdigest()[:16]}"


def wanted_rules(chain: str, sources: list[str], ports: list[dict]) -> list[str]:
    """Return the chain's rules, spelled as iptables itself lists them; raise ValueError on what is no IPv4 network, address or TCP port."""
    rules = []
    for port in sorted(ports, key=lambda item: (item["port"], item["address"])):
        if not 0 < port["port"] < 65536:
            # iptables would take it, and mean another one.
            raise ValueError(f"{port['port']} is no TCP port")
        address = "" if port["address"] == "0.0.0.0" else f" --ctorigdst {ipaddress.IPv4Address(port['address'])}"
        match = f"-p tcp -m conntrack --ctstate DNAT{address} --ctorigdstport {port['port']} --ctdir ORIGINAL"
        rules += [f"-A {chain} -s {ipaddress.IPv4Network(source)} {match} -j RETURN" for source in sources]
        rules.append(f"-A {chain} {match} -j DROP")
    return rules


def script_text(chain: str, rules: list[str]) -> str:
    """Return the script; the whole chain changes at once, and DOCKER-USER is created where the Engine has not created it yet."""
    return "\n".join(
        [
            "#!/bin/sh",
            "# Written by Ansible (campaign.platform.firewall). Run it before the Docker Engine starts.",
            "set -eu",
            "iptables --wait -N DOCKER-USER 2>/dev/null || true",
            "iptables-restore --wait --noflush <<'RULES'",
            "*filter",
            f":{chain} - [0:0]",
            *rules,
            "COMMIT",
            "RULES",
            f"iptables --wait -C DOCKER-USER -j {chain} 2>/dev/null || iptables --wait -I DOCKER-USER -j {chain}",
            "",
        ]
    )


def ask(*argv: str) -> str | None:
    """Return what a command prints, None where it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def listed(chain: str) -> list[str]:
    """Return the rules that are in force: those of the chain, and the way to it."""
    rules = (ask("iptables", "--wait", "-S", chain) or "").splitlines()
    leads = (ask("iptables", "--wait", "-S", "DOCKER-USER") or "").splitlines()
    return [line for line in rules if line.startswith("-A ")] + [line for line in leads if line == f"-A DOCKER-USER -j {chain}"]


def read(path: str) -> str | None:
    """Return a file's text, None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def install(module: AnsibleModule, path: str, text: str) -> None:
    """Run the script, and keep it where it succeeded: the Engine would not start behind one that fails."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o755)
        done = subprocess.run(["/bin/sh", temporary], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            module.fail_json(
                msg=f"The rules could not be installed: {done.stderr.strip()}. The kernel needs the conntrack match, and the host the package iptables."
            )
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def remove(module: AnsibleModule, path: str, chain: str) -> None:
    """Take the way to the chain, the chain and the script away, whichever is there."""
    while ask("iptables", "--wait", "-D", "DOCKER-USER", "-j", chain) is not None:
        pass
    ask("iptables", "--wait", "-F", chain)
    ask("iptables", "--wait", "-X", chain)
    if listed(chain):
        module.fail_json(msg=f"The chain {chain} is still there. Look at it with: iptables -S")
    if os.path.exists(path):
        os.unlink(path)


def main() -> None:
    """Entry point."""
    port = {"address": {"type": "str", "required": True}, "port": {"type": "int", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "sources": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "dict", "default": [], "options": port},
            "directory": {"type": "path", "default": "/usr/local/sbin"},
        },
        supports_check_mode=True,
    )
    params = module.params
    chain = chain_of(params["project"])
    path = os.path.join(params["directory"], f"docker-firewall-{params['project']}")
    try:
        rules = wanted_rules(chain, params["sources"], params["ports"]) if params["sources"] else []
    except ValueError as error:
        module.fail_json(msg=f"sources must be IPv4 networks such as 192.0.2.0/24, and each of ports an IPv4 address and a TCP port: {error}")
    text = script_text(chain, rules) if rules else None
    wanted = [*rules, f"-A DOCKER-USER -j {chain}"] if rules else []
    before = listed(chain)
    changed = before != wanted or read(path) != text
    if changed and not module.check_mode:
        if text is None:
            remove(module, path, chain)
        else:
            install(module, path, text)
    diff = {"before": "".join(f"{rule}\n" for rule in before), "after": "".join(f"{rule}\n" for rule in wanted)}
    module.exit_json(changed=changed, script=path, diff=diff)


if __name__ == "__main__":
    main()
