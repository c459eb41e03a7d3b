#!/usr/bin/python
# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the PostgreSQL of a stack to another major version, or back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_upgrade
short_description: Bring the PostgreSQL of a stack to another major version, or back
version_added: 0.4.0
description:
  - Has the server image of the current release dump what is stored, and the new one restore and compare it, without a file in between.
  - The module puts data in its place. A deploy of the release with the new image, or of the one from before, comes between O(state=upgraded) or
    O(state=reverted) and O(state=settled). The playbook C(upgrade_postgres) does all of it.
options:
  directory:
    description: The stack's directory on the host.
    type: path
    required: true
  project:
    description: The stack's Compose project.
    type: str
    required: true
  state:
    description:
      - V(rehearsed) restores into a volume that is thrown away, and compares. Nothing of the stack is touched.
      - V(upgraded) stops the services, restores again, and puts the new cluster beside the old one in the release's volume. Where that fails, what ran before
        is started again.
      - V(reverted) puts the cluster that the last upgrade replaced beside the one in use, and returns the release that it belongs to.
      - V(settled) ends what V(upgraded) or V(reverted) began. Where another release is in use since, the data from before is moved to a volume of its own.
        Where it is not, the data is taken away again, and the release from before is started. Where nothing was begun, nothing is done.
      - V(removed) removes the volumes with data that upgrades replaced, after which there is no V(reverted). Those of restores stay.
    type: str
    choices: [rehearsed, upgraded, reverted, settled, removed]
    required: true
  new_image:
    description: Reference of the new server's image, which has to be on the host. Required with O(state=rehearsed) and O(state=upgraded).
    type: str
  from_image:
    description: Reference of the image that wrote the data, where it is not the one of the current release.
    type: str
  confirm:
    description: With O(state=reverted), the name of the project, typed by a person.
    type: str
  memory:
    description: Memory that each throw-away container may use, as Docker spells it.
    type: str
    default: 1g
  cpus:
    description: Number of CPUs that each throw-away container may use.
    type: str
    default: "2.0"
  lock_wait:
    description: Seconds that another run on the stack is waited for, and with O(state=settled) another backup or drill too.
    type: int
    default: 900
  health_timeout:
    description: Seconds that services get to become healthy again where the old data is put back.
    type: int
    default: 180
  holder:
    description: Who works on the stack, which the action of the same name fills in.
    type: dict
    suboptions:
      user: {description: Name of the person., type: str, required: true}
      controller: {description: Name of the machine that Ansible runs on., type: str, required: true}
      machine: {description: What tells that machine from all others., type: str, required: true}
      pid: {description: Number of the process., type: int, required: true}
      run: {description: What tells the run from all others., type: str, required: true}
      commit: {description: Commit of the inventory., type: str}
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: none
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Restore into a volume that is thrown away, and compare
  campaign.platform.postgres_upgrade:
    directory: /opt/campaign
    project: campaign
    state: rehearsed
    new_image: docker.io/postgis/postgis:18-3.6
"""

RETURN = r"""
lines:
  description: What was done and found, and when.
  type: list
  elements: str
  returned: always
found:
  description: What was copied, with C(from), C(to), C(seconds), C(databases), C(tables), C(rows) and C(findings).
  type: dict
  returned: with O(state=rehearsed), where it is none if there is nothing to upgrade, and O(state=upgraded)
release:
  description: The release to deploy.
  type: str
  returned: with O(state=reverted)
done:
  description: V(settled), V(revert settled), V(upgrade withdrawn), V(revert withdrawn), or none where nothing had been begun.
  type: str
  returned: with O(state=settled)
"""

import signal
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils import lock, postgres_upgrade
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError
from ansible_collections.campaign.platform.plugins.module_utils.engine import EngineError


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "project": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["rehearsed", "upgraded", "reverted", "settled", "removed"], "required": True},
            "new_image": {"type": "str"},
            "from_image": {"type": "str"},
            "confirm": {"type": "str"},
            "memory": {"type": "str", "default": "1g"},
            "cpus": {"type": "str", "default": "2.0"},
            "lock_wait": {"type": "int", "default": 900},
            "health_timeout": {"type": "int", "default": 180},
            "holder": {"type": "dict", "options": lock.OPTIONS},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        required_if=[("state", "rehearsed", ("new_image",)), ("state", "upgraded", ("new_image",))],
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    params: dict[str, Any] = module.params
    config = {name: params[name] for name in ("project", "memory", "cpus", "lock_wait", "health_timeout", "socket", "new_image")}
    lines: list[str] = []
    try:
        upgrades = postgres_upgrade.Upgrades(params["directory"], params["holder"], config, lines)
        module.exit_json(lines=lines, **postgres_upgrade.work(upgrades, params["state"], params))
    except (BackupError, EngineError, lock.LockedError) as error:
        module.fail_json(msg=str(error), lines=lines)
    except OSError as error:
        module.fail_json(
            msg=f"{error.strerror}: {error.filename or params['directory']}. Run the playbook again, which ends or undoes what was begun.", lines=lines
        )


if __name__ == "__main__":
    main()
