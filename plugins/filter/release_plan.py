# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the service catalogue into a release."""

from __future__ import annotations

DOCUMENTATION = r"""
name: release_plan
short_description: Turn the service catalogue and the settings into everything that a release consists of
version_added: 0.1.0
description:
  - One evaluation gives the Compose files, the environment file, config and secret files and the release's id, because each
    template that is evaluated anew costs time in every run.
  - The id is a digest of the rendered texts. The same inputs give the same release, so that a second run changes nothing.
options:
  _input:
    description: The catalogue, the list of the service entries. One whose C(bundled) is false is left out.
    type: list
    elements: dict
    required: true
  layer:
    description: Layer on top of the base, C(dev) or C(prod).
    type: str
    required: true
  common:
    description: Keys that every service has unless its fragment says otherwise.
    type: dict
    required: true
  networks:
    description: The networks that the base has in any case; an entry's base may add some.
    type: dict
    required: true
  settings:
    description: Settings that the Compose files refer to, for the environment file.
    type: dict
    required: true
  generation_key:
    description: The stack's generation key, see P(campaign.platform.secret_files#filter).
    type: str
    required: true
  directory:
    description: The stack's directory on the host.
    type: path
    required: true
  project:
    description: Compose project name.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show a release's id
  ansible.builtin.debug:
    msg: "{{ (catalogue | campaign.platform.release_plan('dev', {}, {}, {}, 'key', '/opt/campaign', 'campaign')).release }}"
"""

RETURN = r"""
_value:
  description:
    - C(release) (id), C(files) (C(name) and C(content)), C(configs), C(secrets), C(compose_files) and C(env_file) (paths on the
      host), C(services) (those that must run), C(jobs) (services that run once before the others), C(foundations)
      (services that wait for no other), C(images) (references by service),
      C(directory) and C(project).
  type: dict
"""

import hashlib

from ansible_collections.campaign.platform.plugins.filter.compose_layer import compose_layer
from ansible_collections.campaign.platform.plugins.filter.config_files import config_files
from ansible_collections.campaign.platform.plugins.filter.secret_files import secret_files
from ansible_collections.campaign.platform.plugins.filter.to_compose import to_compose
from ansible_collections.campaign.platform.plugins.filter.to_env_file import to_env_file


def _keep(mappings: list[dict], *keys: str) -> list[dict]:
    return [{key: mapping[key] for key in keys} for mapping in mappings]


def release_plan(catalogue, layer: str, common, networks, settings, generation_key: str, directory: str, project: str) -> dict:
    """Return the release; see DOCUMENTATION."""
    catalogue = [entry for entry in catalogue if entry.get("bundled", True)]
    declared = compose_layer(catalogue, "base")
    consumers: dict = {}
    fetched: dict = {}
    for entry in catalogue:
        for consumer, files in entry.get("secrets", {}).items():
            # A later entry that takes the files away: the service fetches these values itself.
            if not files and consumers.get(consumer):
                fetched[consumer] = consumers[consumer]
            consumers[consumer] = files
    secrets = secret_files(consumers, declared["services"], generation_key, f"{directory}/secrets")
    configs = config_files(catalogue, directory)
    # What runs does not fetch again, so a changed value has to change the service too.
    generations = {
        consumer: {
            "labels": {
                "campaign.secrets": "-".join(file["source"][-12:] for file in secret_files({consumer: values}, declared["services"], generation_key, ""))
            }
        }
        for consumer, values in fetched.items()
    }
    common_networks = {"base": {"networks": dict(networks)}}
    base = compose_layer([common_networks, *catalogue, {"base": {"services": generations}}], "base", common=common, secrets=secrets, configs=configs)
    # First in the file, where a reader looks for them.
    base = {"networks": base.pop("networks"), **base}
    override = compose_layer(catalogue, layer)
    texts = {"docker-compose.yml": to_compose(base), f"docker-compose.{layer}.yml": to_compose(override)}
    variables = to_env_file(settings)

    release = hashlib.sha256("".join([*texts.values(), variables]).encode()).hexdigest()[:12]
    path = f"{directory}/releases/{release}"
    compose_files = [f"{path}/{name}" for name in texts]
    # COMPOSE_FILE makes plain `docker compose` work in the stack's directory.
    own = to_env_file({"COMPOSE_PROJECT_NAME": project, "COMPOSE_FILE": ":".join(compose_files)})
    texts[".env"] = own + variables

    jobs = sorted(job for entry in catalogue for job in entry.get("jobs", []))
    services = {**override.get("services", {}), **base.get("services", {})}
    return {
        "release": release,
        "directory": directory,
        "project": project,
        "files": [{"name": name, "content": content} for name, content in texts.items()],
        "configs": _keep(configs, "name", "path", "content"),
        "secrets": _keep(secrets, "path", "content", "uid", "gid"),
        "compose_files": compose_files,
        "env_file": f"{path}/.env",
        "services": [name for name in services if name not in jobs],
        "jobs": jobs,
        # An override may have another image, for hot reload.
        "images": {name: {**service, **override.get("services", {}).get(name, {})}["image"] for name, service in services.items() if name not in jobs},
        "foundations": [name for name, service in services.items() if name not in jobs and "depends_on" not in service],
    }


class FilterModule:
    """Filters of this file."""

    def filters(self):
        return {"release_plan": release_plan}
