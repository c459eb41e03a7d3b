# SPDX-License-Identifier: GPL-3.0-or-later
"""The role stack's declaration and release without a playbook: the same functions that the action plugins call, with the role's own variables."""

import dataclasses
import functools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

ROOT = Path(__file__).resolve().parent.parent

# So that the plugins are imported by the names that Ansible knows them by: ansible_collections.campaign.platform.plugins.
if not any(isinstance(finder, _AnsibleCollectionFinder) for finder in sys.meta_path):
    _AnsibleCollectionFinder(paths=[str(ROOT / "collections")])._install()

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.campaign.platform.plugins.plugin_utils import declaration, inputs, release
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer

ROLE = ROOT / "roles/stack"
IMAGES = ("api", "dev", "frontend", "minio", "nginx", "postgis", "redis", "rules-engine", "scheduler")
# What every secret of a golden file ends with, behind its own name.
SECRET = "-of-the-golden-files"
VARIANTS: dict[str, dict[str, Any]] = {
    "local": {"stack_variant": "local", "stack_hot_reload": True},
    "prod": {"stack_variant": "prod"},
    # Not a certificate, so that it cannot expire; what validation says of it is left out.
    "prod-tls": {"stack_variant": "prod", "stack_tls_certificate": "a certificate\n", "stack_server_name": "campaign.example.com"},
}
OVERRIDES = {"local": "docker-compose.dev.yml", "prod": "docker-compose.prod.yml", "prod-tls": "docker-compose.prod.yml"}
LOADER = DataLoader()


def trusted(value: Any) -> Any:
    """Return data whose texts may hold expressions, as those of an inventory do."""
    if isinstance(value, Mapping):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


@functools.cache
def role_variables() -> Mapping[str, Any]:
    """Return the role's defaults and vars, with their expressions."""
    found: dict[str, Any] = {}
    for path in [ROLE / "defaults/main.yml", *sorted((ROLE / "vars").rglob("*.yml"))]:
        found |= LOADER.load_from_file(str(path), trusted_as_template=True) or {}
    return found


def tables() -> declaration.Tables:
    """Return the role's own data."""
    return declaration.tables(role_variables())


def secret_names(added: Mapping[str, Any] | None = None, *, asked: bool = False) -> list[str]:
    """Return the names of the secrets that a catalogue needs, with an inventory's entries if there are any; ``asked`` with those of its options."""
    catalogue, problems = declaration.combined(tables(), added or {})
    assert problems == [], problems
    catalogue = {name: entry for name, entry in catalogue.items() if asked or not entry.get("asked_by")}
    # As plain texts, which other YAML libraries than Ansible's know.
    return [str.__str__(name) for name in declaration.known_secrets(tables(), catalogue).needed]


def placeholders(names: Iterable[str]) -> dict[str, str]:
    """Return a value for each secret by which a reader knows it again, as long as prod asks for."""
    return {name: f"{name}{SECRET}".rjust(32, "-") for name in names}


def variables_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's variables: the role's, and what an inventory gives."""
    return {**role_variables(), "role_path": str(ROLE), "stack_app_source": str(ROOT / "files/app"), "stack_variant": "local", **trusted(given)}


def declare(given: Mapping[str, Any], *, with_secrets: bool = True) -> tuple[declaration.Declaration | None, AnsibleRenderer, list[str]]:
    """Return what the inventory's variables declare, and what is wrong with them."""
    values = variables_of(given)
    return inputs.declaration_of(values, Templar(loader=LOADER, variables=values), LOADER, check_mode=True, with_secrets=with_secrets)


def problems_of(given: Mapping[str, Any]) -> list[str]:
    """Return all that validation says of the variables: what the declaration shows and, without any of that, what rendering the catalogue shows."""
    declared, renderer, problems = declare(given)
    return problems if declared is None or problems else release.summary(declared, renderer)[1]


def summary(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return images and ports of a release, as the action validate does."""
    declared, renderer, problems = declare(given)
    assert declared is not None, problems
    assert problems == []
    found, problems = release.summary(declared, renderer)
    assert problems == []
    return found


def build(given: Mapping[str, Any], images: Iterable[str] = ()) -> dict[str, Any]:
    """Return the release, with a placeholder for every secret that is not given. ``images`` are keys beside the collection's own."""
    secrets = placeholders(secret_names(given.get("stack_services"), asked=bool(given.get("stack_point_in_time")))) | given.get("stack_secrets", {})
    secrets |= placeholders(["tls_private_key"] if "stack_tls_certificate" in given else [])
    declared, renderer, problems = declare({**given, "stack_secrets": secrets})
    assert declared is not None, problems
    found = [problem for problem in problems if not problem.startswith(("stack_tls_certificate", "stack_secrets.tls_private_key"))]
    assert found == [], found
    needed, found = release.summary(declared, renderer)
    assert found == [], found
    # Validation asks whether the sources are there, but a release that tests compare must not name this checkout.
    declared = dataclasses.replace(declared, arguments={**declared.arguments, "stack_app_source": "/srv/campaign/app"})
    # As the role images gives them: of what is required, and nothing else.
    references = {key: f"campaign/{key}:golden" for key in [*IMAGES, *images] if key in needed["images"]}
    return release.build(declared, renderer, references)


def secret_texts(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the secret files' texts by consumer and target, without the generation that their names end with."""
    return {Path(secret["path"]).name.rpartition("_")[0]: secret["content"] for secret in plan["secrets"]}


def release_files(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a release by the path of the file that shows them."""
    texts = {file["name"]: file["content"] for file in plan["files"]}
    services = yaml.safe_load(texts["docker-compose.yml"])["services"]
    for config in plan["configs"]:
        name = config["name"]
        if texts.get(name, config["content"]) != config["content"]:
            mounted = [service for service, body in services.items() if any(config["path"] in str(volume) for volume in body.get("volumes") or ())]
            name = f"{mounted[0]}-{name}"
        assert texts.setdefault(name, config["content"]) == config["content"], f"two different files {name}"
    texts["manifest.json"] = json.dumps(plan["manifest"], indent=1, ensure_ascii=False) + "\n"
    # Every file of the repository ends with a line's end, a secret does not.
    return texts | {f"secrets/{name}": content.removesuffix("\n") + "\n" for name, content in secret_texts(plan).items()}


def golden(variant: str, **more: Any) -> dict[str, str]:
    """Return the texts of a variant's release."""
    return release_files(build(VARIANTS[variant] | more))


def write(directory: Path) -> None:
    """Write each variant's release into a directory of its name."""
    for variant in VARIANTS:
        for name, text in golden(variant).items():
            path = directory / variant / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
