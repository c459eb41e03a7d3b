# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out what each image is called and what it is made of."""

from __future__ import annotations

DOCUMENTATION = r"""
name: image_plan
short_description: Give every image of a catalogue its reference, and its build where it is built
version_added: 0.1.0
description:
  - The tag of a built image is a digest of all that goes into it, its Dockerfile, its context, its arguments and its parents' references.
    So an image that is present under its reference is up to date, and asking costs no build.
  - Of a definition with C(sources), paths below its context, only the files below these count. C(*) stands for any part of a name.
  - A context's C(.dockerignore) is honoured in its simple forms, C(**/NAME), C(NAME) and C(**/*.SUFFIX).
options:
  _terms:
    description: The catalogue, one mapping of keys to definitions.
    required: true
    type: list
    elements: dict
  directory:
    description: Directory that the contexts of the definitions are relative to.
    type: path
    required: true
  source:
    description: V(pull) takes the upstream reference where a definition has one, V(build) builds everything.
    type: str
    choices: [pull, build]
    required: true
  prefix:
    description: What stands before the key in the reference of a built image.
    type: str
    required: true
  registry:
    description: What stands before an upstream reference, such as C(mirror.example.com/). Empty for none.
    type: str
    default: ""
  upstream:
    description: Upstream references by key, over those of the catalogue.
    type: dict
    default: {}
  lock:
    description: Digests by reference, registry included. A pulled reference that it names is pulled by that digest.
    type: dict
    default: {}
  revision:
    description: Goes into every digest; a new value builds everything anew.
    type: str
    default: "1"
"""

EXAMPLES = r"""
- name: Show what images are called
  ansible.builtin.debug:
    msg: "{{ lookup('campaign.platform.image_plan', catalogue, directory='files', source='build', prefix='campaign/') }}"
"""

RETURN = r"""
_list:
  description:
    - One mapping of keys to C(reference), C(pull) (whether it is pulled), C(tagged) for a pull (without the lock's digest), and for a
      build C(context), C(dockerfile), C(target), C(args),
      C(suite), C(include), C(parents) (keys, all the way up, parents first) and C(hint).
  type: list
  elements: dict
"""

import fnmatch
import glob
import hashlib
import json
import os
from collections.abc import Iterator

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

_digests: dict[tuple[str, tuple[str, ...]], str] = {}


def _ignored(context: str) -> list[str]:
    try:
        with open(os.path.join(context, ".dockerignore"), encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return []
    patterns = [line.removeprefix("**/") for line in lines if line and not line.startswith("#")]
    for pattern in patterns:
        if "/" in pattern or pattern.startswith("!"):
            raise AnsibleLookupError(f"{context}/.dockerignore: {pattern!r} is beyond what image_plan understands. Use **/NAME.")
    return patterns


def _below(context: str, source: str) -> list[str]:
    """Return the paths that a source names, C(*) in place of any part of a name. Raises AnsibleLookupError when it names none."""
    if os.path.isabs(source) or ".." in source.split("/"):
        raise AnsibleLookupError(f"The source {source} is not below {context}, which an image is built from.")
    found = sorted(glob.glob(source, root_dir=context))
    if not found:
        raise AnsibleLookupError(f"{os.path.join(context, source)} is not there, but an image is built from it.")
    return found


def tree_digest(context: str, sources: tuple[str, ...] = (".",)) -> str:
    """Return a digest of a directory's files, or of those below some of its paths: relative path, executable bit and content.

    Raises AnsibleLookupError when the directory or one of the paths is not there, or all of a path is ignored.
    """
    if (context, sources) in _digests:
        return _digests[context, sources]
    if not os.path.isdir(context):
        raise AnsibleLookupError(f"{context} is not there, but an image is built from it.")
    patterns = _ignored(context)

    def ignored(name: str) -> bool:
        return any(fnmatch.fnmatch(part, pattern) for part in name.split("/") for pattern in patterns)

    def files(path: str) -> Iterator[str]:
        if os.path.isfile(path):
            yield path
        for directory, directories, names in os.walk(path):
            directories[:] = sorted(name for name in directories if not ignored(name))
            yield from (os.path.join(directory, name) for name in sorted(names) if not ignored(name))

    digest = hashlib.sha256()
    for source in sources:
        found = [path for below in _below(context, source) if not ignored(below) for path in files(os.path.join(context, below))]
        if not found:
            raise AnsibleLookupError(f"{os.path.join(context, source)} has no file that {context}/.dockerignore lets into an image.")
        for path in found:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{os.path.relpath(path, context)}\0{os.access(path, os.X_OK)}\0{content}\n".encode())
    _digests[context, sources] = digest.hexdigest()
    return _digests[context, sources]


def image_plan(catalogue, directory: str, source: str, prefix: str, registry: str, upstream, revision: str, lock) -> dict[str, dict]:
    """Return the plan of every image; see DOCUMENTATION."""
    plan: dict[str, dict] = {}

    def add(key: str) -> dict:
        if key in plan:
            return plan[key]
        definition = catalogue[key]
        reference = upstream.get(key) or (definition.get("upstream") if source == "pull" else None)
        if reference:
            tagged = registry + reference
            locked = f"{tagged}@{lock[tagged]}" if tagged in lock else tagged
            plan[key] = {"reference": locked, "tagged": tagged, "pull": True, "parents": []}
            return plan[key]
        parents = {argument: add(parent) for argument, parent in definition.get("parents", {}).items()}
        context = os.path.realpath(os.path.join(directory, definition["context"])) if "context" in definition else None
        build = {
            "dockerfile": definition.get("dockerfile", "Dockerfile"),
            "target": definition.get("target"),
            "suite": definition.get("suite"),
            "include": definition.get("include", []),
            "args": {**definition.get("args", {}), **{argument: parent["reference"] for argument, parent in parents.items()}},
        }
        # A Dockerfile says which of a context's files go into an image; a definition with sources says the same, and a test compares them.
        sources = (*definition["sources"], build["dockerfile"]) if "sources" in definition else (".",)
        content = json.dumps([build, tree_digest(context, sources) if context else None, str(revision)], sort_keys=True)
        ancestors = [ancestor for parent in definition.get("parents", {}).values() for ancestor in [*plan[parent]["parents"], parent]]
        plan[key] = {
            **build,
            "reference": f"{prefix}{key}:{hashlib.sha256(content.encode()).hexdigest()[:12]}",
            "pull": False,
            "context": context,
            "parents": list(dict.fromkeys(ancestors)),
            "base_suite": next((catalogue[parent]["suite"] for parent in ancestors if "suite" in catalogue[parent]), None),
            "hint": definition.get("hint", ""),
        }
        return plan[key]

    for name in catalogue:
        add(name)
    return {key: {"key": key, **plan[key]} for key in plan}


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        options = {name: self.get_option(name) for name in ("directory", "source", "prefix", "registry", "upstream", "revision", "lock")}
        return [image_plan(catalogue, **options) for catalogue in terms]
