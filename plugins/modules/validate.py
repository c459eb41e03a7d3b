# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a virtual module that is entirely implemented as an action plugin and runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: validate
short_description: Check the arguments of a role of this collection before anything is touched
version_added: 0.3.0
description:
  - Checks the arguments of the role that the task stands in against its argument spec, the rules of single variables in C(__ROLE_rules), and the
    rules between variables in C(__ROLE_requirements), rows of C(that) and C(message). A row that holds does not render its message.
  - Fails with all problems at once, by name, with a remedy and never a value. Booleans and whole numbers are coerced as an argument spec coerces
    them. A variable that begins with the role's prefix is an error only where its name is close to that of an argument.
  - For the role C(images) it also plans what each image is called and made of. For the role C(stack) it reads secrets, assembles the service catalogue
    and checks both. Nothing is written, and no secret is generated.
options:
  secrets:
    description: Whether secrets are read and asked for. Without, it is enough to know what images and ports a release has.
    type: bool
    default: true
  requirements:
    description:
      - Names of tables of the role, C(host) for C(__ROLE_host_requirements), of the same form. They are evaluated in place of the arguments, with the
        facts that P(campaign.platform.host_facts#module) has gathered, and after the arguments were validated.
    type: list
    elements: str
  header:
    description: First line of the message when something is wrong.
    type: str
    default: "Nothing was changed. Fix these first:"
attributes:
  check_mode:
    support: full
    description: Only reads.
author: campaign.platform contributors (@campaign-platform)
"""

EXAMPLES = r"""
- name: Check every input before anything is touched
  campaign.platform.validate:

- name: Check that the host can carry the stack
  campaign.platform.validate:
    requirements: [host]
    header: "Nothing was changed on this host. Fix these first:"
"""

RETURN = r"""
images:
  description: Keys of the images that the release needs.
  type: list
  elements: str
  returned: for the role stack
image_definitions:
  description: Definitions of the images that entries of C(stack_services) bring along, by key.
  type: dict
  returned: for the role stack
image_places:
  description: Where images are named, by their keys, such as C(stack_services.mailer.images.mailer).
  type: dict
  returned: for the role stack
ports:
  description: Ports that will be published, each with C(address) and C(port).
  type: list
  elements: dict
  returned: for the role stack
plans:
  description: By source (C(pull) and C(build), or C(load)), all images by key, each with its C(reference), C(how) it is brought, and its C(parents).
  type: dict
  returned: for the role images
candidates:
  description: References of the required images and their parents from either source, to ask a host for.
  type: list
  elements: str
  returned: for the role images
missing:
  description: Images of the plan that the host does not have, parents first.
  type: list
  elements: dict
  returned: for the role images with O(requirements)
references:
  description: References of the images by key.
  type: dict
  returned: for the role images with O(requirements)
lacking:
  description: Which of C(engine), C(compose) and C(buildx) do not answer.
  type: list
  elements: str
  returned: for the role docker_host with O(requirements)
packages:
  description: Packages that bring what is lacking.
  type: list
  elements: str
  returned: for the role docker_host with O(requirements)
"""
