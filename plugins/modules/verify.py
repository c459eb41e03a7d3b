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
    that never became healthy, and waits until all are healthy or O(timeout) has passed. For a release of which no service runs, it waits only where
        O(lock_directory) says that this run has started it.
  - Proves that each service's logs can be read and that it runs the image of its reference, then asks all O(checks) concurrently and
    reports every failure, not just the first. The module itself changes nothing; what a probe or a command changes is the service's affair.
options:
  manifest:
    description:
      - Path of a release's C(manifest.json). What it says is the default of O(project), O(services), O(images) and O(checks), so that
        what was deployed is verified, whatever the inventory says today.
    type: path
  project:
    description: Compose project name. Required without O(manifest).
    type: str
  services:
    description: Names of the services that must run and be healthy. Required without O(manifest).
    type: list
    elements: str
  jobs:
    description: Names of the services that must have run to their end with success. One that failed ends the wait, as a service in a crash loop does.
    type: list
    elements: str
    default: []
  beside:
    description:
      - Services whose newest container was started beside the one that serves. These alone are asked, at the containers' own addresses, and neither by checks
        that name an address nor by those of depth V(full).
    type: list
    elements: str
  images:
    description: References by service. The image that a service runs must be the one that the Engine has under its reference.
    type: dict
  checks:
    description: What to ask. Each names the service that is to blame when it fails.
    type: list
    elements: dict
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
          - V(tcp) connects to O(checks[].port), or proves that nobody but the host itself can.
          - V(probe) posts O(checks[].send) to the service, which asks its own dependencies, and compares what came back with O(checks[].expect).
          - V(command) runs O(checks[].command) in the service's container, as its user, and compares exit code and output.
        type: str
        choices: [http, tcp, probe, command]
        required: true
      depth:
        description: A check of depth V(full) is asked with O(depth=full) only.
        type: str
        choices: [basic, full]
        default: basic
      port:
        description: TCP port, of the container unless O(checks[].address) is given. Required but for V(command).
        type: int
      address:
        description: Address of the host where the port is published. Without it the container's own address is asked.
        type: str
      certificate:
        description:
          - Certificate and chain in PEM. Given, V(http) and V(probe) ask by https, expect this very certificate, and trust nothing else.
        type: str
      server_name:
        description: DNS name to ask for, and to find in the certificate. Required with O(checks[].certificate).
        type: str
      path:
        description: Path and query. V(/) for V(http) and V(/internal/probe) for V(probe) without it.
        type: str
      status:
        description: HTTP status that V(http) expects, V(200) without it, or exit code that V(command) expects, V(0) without it.
        type: int
      headers:
        description: Headers that the answer of V(http) must have, with these values.
        type: dict
        default: {}
      contains:
        description: Text that the answer of V(http) or the standard output of V(command) must contain.
        type: str
      json:
        description:
          - What V(http) expects of an answer in JSON. It is evaluated on the controller, because the hosts need not have the Python package C(jmespath).
        type: dict
        suboptions:
          query:
            description: JMESPath expression, see U(https://jmespath.org/specification.html).
            type: str
            required: true
          equals:
            description:
              - What the expression has to give, with its type, so the number 1 is neither the text 1 nor V(true). V(true) without it. For C(null), compare
                in the expression.
            type: raw
      send:
        description:
          - Mapping that V(probe) posts as JSON. C({nonce}) stands for 32 random hexadecimal digits, C({longitude}) and C({latitude}) for the numbers
            of a random place. A value that is one of these and nothing else keeps its type.
        type: dict
      expect:
        description:
          - For V(probe) a mapping of answers' names to their values, with the placeholders of O(checks[].send). The service answers
            with a C(name), what it C(got) and an optional C(detail) for each, in a list under the key C(checks).
          - For V(tcp) V(open), which is the default, where a connection must succeed, or V(loopback), where no address of the host but
            loopback may accept one. A port that the service does not publish is not asked then.
        type: raw
      command:
        description: Command and arguments of V(command). No shell reads them.
        type: list
        elements: str
      environment:
        description: Environment variables of V(command), beside the container's own.
        type: dict
        default: {}
      timeout:
        description: Seconds that V(command) may take. One that takes longer fails the check, and goes on in the container until it ends by itself.
        type: int
        default: 60
  depth:
    description: V(full) adds the checks of that depth.
    type: str
    choices: [basic, full]
    default: basic
  timeout:
    description: Seconds to wait for all services to become healthy and all jobs to end.
    type: int
    default: 120
  settle:
    description:
      - Seconds to watch the services. One that ends, starts again or becomes unhealthy meanwhile is a failure, because a service may be healthy for a while
        and then die. They count from when the last one answers the command of its healthcheck; at least half of them come when all are healthy and have
        passed their checks.
    type: int
    default: 0
  lock_directory:
    description: The stack's directory, where this run holds the lock. It gets signs of life while the module waits.
    type: path
extends_documentation_fragment: [campaign.platform.engine]
attributes:
  check_mode:
    support: full
    description: Looks at state, health and images alone. Other questions write what they read back, sign in, or run commands in containers.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Verify what was deployed
  campaign.platform.verify:
    manifest: /opt/campaign/current/manifest.json
    depth: full

- name: Verify a page, a worker's access to its database and a port that is closed from outside
  campaign.platform.verify:
    project: shop
    services: [frontend, worker, database]
    checks:
      - {service: frontend, name: the page, kind: http, address: 127.0.0.1, port: 8080, contains: "<div id=\"root\">"}
      - service: worker
        name: the database
        kind: probe
        port: 3000
        send: {lng: "{longitude}", lat: "{latitude}"}
        expect: {postgis: "POINT({longitude} {latitude})"}
      - {service: worker, name: ready, kind: http, port: 3000, path: /health, json: {query: status, equals: ok}}
      - {service: worker, name: few jobs wait, kind: http, port: 3000, path: /health, json: {query: "queue.waiting < `100`"}}
      - {service: database, name: port closed from outside, kind: tcp, port: 5432, expect: loopback}
      - {service: worker, name: an order from end to end, kind: command, command: [node, dist/order.js], depth: full}
"""

RETURN = r"""
passed:
  description: Number of checks that passed.
  type: int
  returned: when the Engine answers
failures:
  description: Each failure with C(service), C(check), C(expected), C(got) and C(look).
  type: list
  elements: dict
  returned: when the Engine answers
logs:
  description: The last lines of every service that failed.
  type: dict
  returned: on failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.campaign.platform.plugins.module_utils import manifest
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.campaign.platform.plugins.module_utils.verdict import told
from ansible_collections.campaign.platform.plugins.module_utils.verification import FROM_MANIFEST, Stack, from_manifest, only_beside, problems_of


def main() -> None:
    """Entry point."""
    spec = {
        "manifest": {"type": "path"},
        "jobs": {"type": "list", "elements": "str", "default": []},
        **FROM_MANIFEST,
        "beside": {"type": "list", "elements": "str"},
        "depth": {"type": "str", "choices": ["basic", "full"], "default": "basic"},
        "timeout": {"type": "int", "default": 120},
        "settle": {"type": "int", "default": 0},
        "lock_directory": {"type": "path"},
        "socket": {"type": "path", "default": "/var/run/docker.sock"},
    }
    module = AnsibleModule(argument_spec=spec, required_one_of=[("manifest", "project"), ("manifest", "services")], supports_check_mode=True)
    params = module.params
    try:
        if params["manifest"]:
            from_manifest(params)
    except manifest.ManifestError as error:
        module.fail_json(msg=str(error))
    if params["beside"]:
        only_beside(params)
    params.update(images=params["images"] or {}, checks=params["checks"] or [])
    problems = problems_of(params["checks"])
    if problems:
        module.fail_json(msg="\n- ".join(["Nothing was asked, because these checks cannot be:", *problems]))
    if module.check_mode:
        params["checks"] = []
    stack = Stack(Engine(params["socket"]), params)
    try:
        # A run that holds the lock has just started them, and says of each what became of it. Nobody else waits for what nobody starts.
        if params["manifest"] and not params["lock_directory"] and stack.is_at_rest():
            module.fail_json(
                msg=f"Nothing was asked, because no service of {params['project']} runs: the stack was taken down or stopped. "
                "A deploy starts it, with its data.",
                passed=0,
                failures=[],
            )
        passed, failures = stack.verify()
    except EngineError as error:
        module.fail_json(msg=f"The Docker Engine did not answer: {error}. Is it running, and may this user use its socket?")
    # Only where there is something for the action to look at, with the logs that belong to a failure.
    answers = {"answers": stack.answers} if stack.answers else {}
    asked = {answer["failure"]["service"] for answer in stack.answers}
    logs = {service: stack.tail(service) for service in sorted({item["service"] for item in failures} | asked)}
    if failures:
        module.fail_json(msg=told(failures, passed + len(failures)), passed=passed, failures=failures, logs=logs, **answers)
    module.exit_json(changed=False, passed=passed, failures=[], **({"logs": logs, **answers} if answers else {}))


if __name__ == "__main__":
    main()
