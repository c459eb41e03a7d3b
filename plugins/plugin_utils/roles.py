# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each role's validation checks besides its arguments and its tables of requirements, and what it returns to the steps after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.template import Templar
from ansible_collections.campaign.platform.plugins.module_utils import lock
from ansible_collections.campaign.platform.plugins.plugin_utils import bundle, holder, hosts, images, inputs, release
from ansible_collections.campaign.platform.plugins.plugin_utils.rendering import AnsibleRenderer

Declared = tuple[dict[str, Any], list[str]]


def requirement_problems(rows: Any, renderer: AnsibleRenderer, names: Mapping[str, Any]) -> list[str]:
    """Return the messages of the rules between variables that do not hold. A row that holds does not render its message."""
    return [str(renderer.render(row["message"], names)) for row in rows if not renderer.holds(row["that"], names)]


def _table(variables: Mapping[str, Any], name: str) -> Any:
    """Return the requirements of a role of that name, or those of the role itself."""
    role = os.path.basename(variables["role_path"])
    return variables.get(f"__{role}_{name}_requirements" if name else f"__{role}_requirements", [])


# --- Before anything is touched: arguments and what follows from them on the controller


def _stack(variables: Mapping[str, Any], templar: Templar, loader: Any, *, with_secrets: bool) -> Declared:
    """Return images and ports of the release that the inputs ask for."""
    # Nothing is generated here, because nothing is changed before all inputs of all roles are known to be right.
    declared, renderer, problems = inputs.declaration_of(variables, templar, loader, check_mode=True, with_secrets=with_secrets)
    if with_secrets:
        problems = [*inputs.kept_files_problems(), *problems]
    if declared is None or problems:
        return {}, problems
    return release.summary(declared, renderer)


def _by_rules(variables: Mapping[str, Any], renderer: AnsibleRenderer) -> Declared:
    """Return the coerced arguments of a role that has argument rules and requirements, and what is wrong with them."""
    role_path = variables["role_path"]
    rules = renderer.render(variables.get(f"__{os.path.basename(role_path)}_rules", {}), {})
    checked = inputs.arguments_of(role_path, variables, renderer, rules)
    return checked.values, checked.problems or requirement_problems(_table(variables, ""), renderer, checked.values)


def _plain(variables: Mapping[str, Any], templar: Templar, _loader: Any, **_options: bool) -> Declared:
    """Check a role whose later steps need nothing of its validation."""
    return {}, _by_rules(variables, AnsibleRenderer(templar, variables, variables["role_path"]))[1]


def _images(variables: Mapping[str, Any], templar: Templar, _loader: Any, **_options: bool) -> Declared:
    """Return the plans of the images by source, and the references that the host has to be asked for."""
    renderer = AnsibleRenderer(templar, variables, variables["role_path"])
    values, problems = _by_rules(variables, renderer)
    if "images_registry_password" in values:
        problems = [*inputs.kept_files_problems(), *problems]
    if problems:
        return {}, problems
    built_in = renderer.render(variables["__images_catalogue"], {})
    rules = renderer.render(variables["__images_value_rules"], {})
    declared, problems = _planned(values, built_in, rules)
    if problems:
        return {}, problems
    source = images.source_of(values["images_source"], None)
    plan = declared["plans"][source]
    names = {**values, "absent": sorted(set(values["images_required"]) - set(plan))}
    if not names["absent"]:
        names |= _of_plan(values["images_required"], plan)
    return declared, requirement_problems(_table(variables, "plan"), renderer, names)


def _of_plan(required: list[str], plan: images.Plan) -> dict[str, Any]:
    return {"not_locked": images.not_locked(required, plan), "built": [key for key in required if plan[key]["how"] == "build"]}


def _planned(values: Mapping[str, Any], built_in: Mapping[str, images.Definition], rules: Mapping[str, Any]) -> Declared:
    definitions, source = values["images_definitions"], values["images_source"]
    with_contexts = source != "load"
    problems = list(images.definition_problems(definitions, built_in, rules["images_upstream"], with_contexts=with_contexts, places=values["images_places"]))
    problems += images.value_problems(values, {**built_in, **definitions}, rules)
    if problems:
        return {}, problems
    declared: dict[str, Any] = {"source": source, "required": list(dict.fromkeys(values["images_required"]))}
    required = declared["required"]
    if source == "load":
        try:
            contents = bundle.read(values["images_bundle"])
        except bundle.BundleError as error:
            return {}, [f"images_bundle: {error}"]
        plans = {"load": contents.images}
        known = [key for key in required if key in contents.images]
        declared |= {"bundle": {"platform": contents.platform, "layers": contents.layers}}
    else:
        catalogue = images.catalogue_of(built_in, values["images_files"], definitions, values.get("images_app_source"))
        naming = images.Naming(values["images_prefix"], values["images_registry"], values["images_upstream"], values["images_lock"], values["images_revision"])
        planner = images.Planner(catalogue, naming)
        try:
            plans = {name: planner.plan(name) for name in ("pull", "build")}
        except images.ImageError as error:
            return {}, [str(error)]
        known = required
        problems = images.dockerfile_problems(
            required, plans[images.source_of(source, None)], definitions, values.get("images_app_source"), values["images_places"]
        )
        declared |= {
            "tagged": images.tagged(required, plans["pull"]),
        }
    return {**declared, "plans": plans, "candidates": images.candidates(plans.values(), known)}, problems


# --- On a host whose facts are known


def _images_on_host(variables: Mapping[str, Any], renderer: AnsibleRenderer) -> dict[str, Any]:
    """Return what the host does not have yet of the images that were validated, and the references of all."""
    validated, facts = variables["__images_validated"], variables["ansible_facts"]["campaign_host"]
    recorded, built = facts["images_source"], facts["images_built"]
    answer = variables.get("__images_answer") or {"skipped": True}
    # A check asks a registry too, and records nothing.
    if recorded is None and not answer.get("skipped"):
        found = answer.get("digests") or {}
        recorded, built = "pull" if found else "build", [key for key, reference in validated["tagged"].items() if reference not in found]
    source = images.source_of(validated["source"], recorded)
    required, plan = validated["required"], validated["plans"][source]
    if (validated["source"], source) == ("auto", "pull"):
        plan = images.mixed(plan, validated["plans"]["build"], set(built) & set(plan))
    missing = images.missing(required, plan, facts["images"])
    loaded = validated.get("bundle", {"platform": None, "layers": {}})
    return {
        "source": source,
        "chosen": validated["source"] != "auto" or recorded is not None,
        "references": {key: image["reference"] for key, image in plan.items()},
        "missing": missing,
        "pulled": [image["reference"] for image in missing if image["how"] == "pull"],
        "built": [image["key"] for image in missing if image["how"] == "build"],
        # What builds install comes from a Debian archive; what has pulled parents only installs nothing.
        "from_debian": [image["key"] for image in missing if image.get("suite") or image.get("base_suite")],
        "bases": [image["key"] for image in missing if image.get("suite")],
        "not_locked": images.not_locked(required, plan),
        "mirror": images.debian_archive(renderer.render(variables.get("images_debian_mirror"), {}), facts),
        "platform": loaded["platform"],
        "load_mb": bundle.needed_mb([image for image in missing if image["how"] == "load"], loaded["layers"]),
    }


def _docker_host_on_host(variables: Mapping[str, Any], renderer: AnsibleRenderer) -> dict[str, Any]:
    """Return what of Docker the host lacks, and the packages that bring it."""
    facts = variables["ansible_facts"]["campaign_host"]
    packages = renderer.render(variables["__docker_host_packages"], {})
    source = renderer.render(variables["docker_host_source"], {})
    release_name = hosts.release_of(facts)
    return {
        "release": release_name,
        "lacking": hosts.lacking(facts),
        "is_new": hosts.engine_is_new(facts),
        "packages": hosts.packages(facts, packages.get("docker" if source == "docker" else release_name, {})),
        "taken": hosts.taken(facts, renderer.render(variables["docker_host_project"], {})),
        "away": hosts.away(facts),
    }


def _at_work(facts: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
    """Return what to say of another run that works on the stack, nothing where none does. Nobody has to wait for images in order to hear it."""
    held = (facts.get("stack") or {}).get("lock")
    if not held or abs(held["age"]) >= lock.LEASE or holder.has_ended(held) or held.get("run") == holder.of_this_run(variables)["run"]:
        return ""
    return str(lock.LockedError(held, held["age"]))


def _stack_on_host(variables: Mapping[str, Any], renderer: AnsibleRenderer) -> dict[str, Any]:
    """Return what is in the way on the host: what has the stack's names and is not its own, and data that this release cannot open."""
    facts, validated = variables["ansible_facts"]["campaign_host"], variables["__stack_validated"]
    found, project = facts["owned"], renderer.render(variables["stack_project"], {})
    about = renderer.render(variables["__stack_postgres_data"], {})
    said, name = _said_by_image(about, facts, variables, renderer), validated["data"]["volume"]
    major = said.get(about["variable"]) or about["major"]
    data = found["volumes"].get(name, {}) if name else {}
    # An external volume may be one that only a container can read, and then nobody looks.
    is_own = data.get("project") == project or str(name).startswith(f"{project}_")
    place = hosts.place_of_data(validated["data"]["target"], validated["data"]["pgdata"] or said.get("PGDATA"))
    return {
        "elsewhere": found["elsewhere"],
        "at_work": _at_work(facts, variables),
        "volumes": hosts.not_of_the_project(found["volumes"], validated["volumes"].values(), project),
        "networks": hosts.not_of_the_project(found["networks"], validated["networks"].values(), project),
        "locked": [name for name in validated["locked_volumes"] if found["volumes"].get(name, {}).get("project") == project],
        "data": {"volume": name, "place": place or f"{major}/docker", "unread": is_own and name in found["volumes"] and data.get("files") is None},
        "major": major,
        "other": hosts.data_of_another_major(data.get("files"), major, place),
    }


def _said_by_image(about: Mapping[str, Any], facts: Mapping[str, Any], variables: Mapping[str, Any], renderer: AnsibleRenderer) -> dict[str, str]:
    """Return what the release's image of PostgreSQL says of its version and its data, nothing where it is not on the host yet."""
    try:
        reference = renderer.render(variables.get("stack_images") or {}, {}).get(about["image"])
    except AnsibleError:
        # Before the images are known, where a playbook asks early.
        reference = None
    return dict(facts.get("image_variables", {}).get(reference, {}))


Validate = Callable[..., Declared]
_ROLES: dict[str, Validate] = {"stack": _stack, "images": _images}
_ON_HOST = {"stack": _stack_on_host, "images": _images_on_host, "docker_host": _docker_host_on_host}


def declare(variables: Mapping[str, Any], templar: Templar, loader: Any, *, with_secrets: bool) -> Declared:
    """Return what the role of the task declares, and a message for everything that is wrong with its inputs."""
    role = os.path.basename(variables["role_path"])
    validate: Validate = _ROLES.get(role, _plain)
    return validate(variables, templar, loader, with_secrets=with_secrets)


def look(variables: Mapping[str, Any], templar: Templar, tables: Collection[str]) -> Declared:
    """Return what the role of the task concludes from the facts of the host, and the messages of the rows in its tables of requirements that do not hold."""
    renderer = AnsibleRenderer(templar, variables, variables["role_path"])
    names = _ON_HOST[os.path.basename(variables["role_path"])](variables, renderer)
    return names, [problem for table in tables for problem in requirement_problems(_table(variables, table), renderer, names)]
