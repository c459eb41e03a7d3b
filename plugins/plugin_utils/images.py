# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each image is called, what goes into it, and which images a host does not have yet.

The tag of a built image is a digest of all that goes into it: its Dockerfile, its context, its arguments and its parents' references. So an image that is
on the host under its reference is up to date, and finding that out needs no build.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.registry import registry_of, split_reference
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import Rule, did_you_mean, setting_problems

Definition = Mapping[str, Any]
# An image of a plan: key, reference, how (pull, build or load) and parents (keys, all the way up, parents first). What is pulled has tagged, the reference
# without the lock's digest, and kept, the tag that keeps an image of a digest. What is built has context, dockerfile, target, args, suite, include, base_suite
# and expected_seconds. What is loaded has id and layers.
Image = dict[str, Any]
Plan = dict[str, Image]

DEFINITIONS = "images_definitions"
TEXTS = frozenset(["upstream", "context", "dockerfile", "target"])
KEYS = TEXTS | {"args", "parents", "replaces"}
# The context, below the directory of the build contexts, that images_app_source replaces.
APP = "app"
_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")


class ImageError(ValueError):
    """An image cannot be built from what there is; the message says why."""


@dataclass(frozen=True)
class Naming:
    """What references consist of."""

    # Stands before the key of a built image.
    prefix: str
    # A mirror of Docker Hub, with a slash at the end; empty for none.
    registry: str = ""
    # Upstream references by key, over those of the catalogue: such an image is pulled whatever the source.
    upstream: Mapping[str, str] = field(default_factory=dict)
    # Digests by reference, registry included.
    lock: Mapping[str, str] = field(default_factory=dict)
    # Goes into every digest.
    revision: str = "1"


# --- The catalogue


def catalogue_of(built_in: Mapping[str, Definition], files: str, definitions: Mapping[str, Definition], app_source: str | None) -> dict[str, Definition]:
    """Return the definitions of all images, with absolute contexts. A definition of an inventory takes the place of a built-in one of its key.

    ``files`` is the directory of the built-in contexts. ``app_source`` is a workspace in place of the context `app`. Only its own
    Dockerfiles say what goes into which image, so all of it counts for each.
    """
    combined: dict[str, Definition] = {}
    for key, definition in built_in.items():
        row = dict(definition)
        if "context" in row:
            if row["context"] == APP and app_source:
                row.pop("sources", None)
                row["context"] = os.path.realpath(app_source)
            else:
                row["context"] = os.path.realpath(os.path.join(files, row["context"]))
        combined[key] = row
    for key, definition in definitions.items():
        given = {name: value for name, value in definition.items() if value is not None and name != "replaces"}
        combined[key] = {**given, "context": os.path.realpath(given["context"])} if "context" in given else given
    return combined


def place_of(key: str, places: Mapping[str, str]) -> str:
    """Return where a person wrote the definition of an image."""
    return places.get(key, f"{DEFINITIONS}.{key}")


def _parent_problems(where: str, parents: Any, known: Collection[str]) -> Iterator[str]:
    if not isinstance(parents, Mapping):
        yield f"{where}.parents must be a mapping of build arguments to keys of images."
        return
    for argument, parent in parents.items():
        if parent not in known:
            yield f"{where}.parents.{argument}: {parent} is not an image. {did_you_mean(str(parent), known)}"


def definition_problems(
    definitions: Mapping[str, Any], built_in: Collection[str], reference: Rule, *, with_contexts: bool = True, places: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield a message for everything in an inventory's definitions that is wrong by itself.

    ``reference`` is the rule of an upstream reference. Without ``with_contexts`` the directories are not looked at: a controller that loads images needs none.
    ``places`` are where a person wrote definitions, by their keys, which messages begin with.
    """
    known = {*built_in, *definitions}
    for key, definition in definitions.items():
        where = place_of(str(key), places or {})
        if not _KEY.match(str(key)):
            yield f"{where}: an image's key is made of a-z, 0-9, ., _ and -, and has at most 63 characters."
        if not isinstance(definition, Mapping):
            yield f"{where} must be a mapping."
            continue
        yield from _row_problems(where, {name: value for name, value in definition.items() if value is not None})
        if key in built_in and not definition.get("replaces"):
            yield (
                f"{where}: {key} is an image of the platform, and what is built from it would change too. Choose another key, "
                f"or say that it is meant: replaces: true."
            )
        elif key not in built_in and definition.get("replaces"):
            yield f"{where}.replaces: there is no image {key} of the platform. {did_you_mean(str(key), built_in)}"
        upstream, context = definition.get("upstream"), definition.get("context")
        yield from setting_problems({"upstream": upstream} if isinstance(upstream, str) else {}, {"upstream": reference}, where)
        yield from _parent_problems(where, definition.get("parents") or {}, known)
        if isinstance(context, str):
            yield from _context_problems(where, context, with_contexts=with_contexts)


def _row_problems(where: str, given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if name not in KEYS:
            yield f"{where}.{name} is not known. {did_you_mean(str(name), KEYS)}"
        elif name in TEXTS and not isinstance(value, str):
            yield f"{where}.{name} must be text."
    if not {"upstream", "context"} & set(given):
        yield f"{where} has neither upstream nor context. Give it a reference to pull, or a directory to build from."
    if not isinstance(given.get("replaces", False), bool):
        yield f"{where}.replaces must be true or false."
    if not isinstance(given.get("args", {}), Mapping):
        yield f"{where}.args must be a mapping of build arguments to values."


def _context_problems(where: str, context: str, *, with_contexts: bool) -> Iterator[str]:
    if not os.path.isabs(context):
        yield f"{where}.context must be an absolute path on this machine. {{{{ inventory_dir }}}} may stand before it."
    elif with_contexts and not os.path.isdir(context):
        yield f"{where}.context: {context} is not a directory on this machine. Create it, or correct the path."


def value_problems(values: Mapping[str, Any], known: Collection[str], rules: Mapping[str, Rule]) -> list[str]:
    """Return a message for everything that is wrong in images_required, images_upstream and images_lock. ``rules`` are those of the latter two's values."""
    problems = setting_problems(values["images_upstream"], dict.fromkeys(known, rules["images_upstream"]), "images_upstream")
    places, unknown = values.get("images_places") or {}, [key for key in values["images_required"] if key not in known]
    problems += [f"{places.get(key, 'images_required')}: {key} is not an image. {did_you_mean(key, known)}" for key in unknown]
    return problems + setting_problems(values["images_lock"], dict.fromkeys(values["images_lock"], rules["images_lock"]), "images_lock")


# --- What a context is made of


def _expression(pattern: str) -> str:
    """Return a regular expression for a pattern of a .dockerignore: `*` and `?` match within a name, `**` across directories."""
    text = ""
    for part in re.split(r"(\*\*/?|\*|\?|\[[^]]+\])", pattern):
        match part:
            case "**/":
                text += "(?:.*/)?"
            case "**":
                text += ".*"
            case "*":
                text += "[^/]*"
            case "?":
                text += "[^/]"
            case _:
                text += part if part.startswith("[") and part.endswith("]") else re.escape(part)
    return text


class Ignored:
    """What a context's .dockerignore keeps out of it: https://docs.docker.com/build/concepts/context/#dockerignore-files."""

    def __init__(self, lines: Iterable[str]):
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for line in (line.strip() for line in lines):
            if line and not line.startswith("#"):
                pattern = os.path.normpath(line.removeprefix("!").strip()).lstrip("/")
                # What is in an ignored directory is ignored too.
                self._rules.append((re.compile(_expression(pattern) + r"(?:/.*)?\Z", re.DOTALL), line.startswith("!")))
        self.has_exceptions = any(kept for _pattern, kept in self._rules)

    def __call__(self, path: str) -> bool:
        """Return whether a path below the context stays out. The last pattern that matches counts."""
        return next((not kept for pattern, kept in reversed(self._rules) if pattern.match(path)), False)


def ignored(context: str) -> Ignored:
    """Return what the .dockerignore of a directory says; without one, nothing is ignored."""
    try:
        with open(os.path.join(context, ".dockerignore"), encoding="utf-8") as file:
            return Ignored(file)
    except FileNotFoundError:
        return Ignored([])


def _below(context: str, source: str) -> list[str]:
    """Return the paths that a source names, with `*` for any part of a name. Raises ImageError when it names none."""
    if os.path.isabs(source) or ".." in source.split("/"):
        raise ImageError(f"The source {source} is not below {context}, which an image is built from.")
    found = sorted(glob.glob(source, root_dir=context))
    if not found:
        raise ImageError(f"{os.path.join(context, source)} is not there, but an image is built from it.")
    return found


def _files(context: str, path: str, left_out: Ignored) -> Iterator[str]:
    """Yield the files at a path below a context, in an order that is the same everywhere."""
    start = os.path.normpath(os.path.join(context, path))
    if os.path.isfile(start):
        yield start
    for directory, directories, names in os.walk(start):
        inside = os.path.relpath(directory, context)

        def stays_out(name: str, inside: str = inside) -> bool:
            return left_out(os.path.normpath(os.path.join(inside, name)))

        # A link is copied as a link, wherever it leads.
        names += [name for name in directories if os.path.islink(os.path.join(directory, name))]
        directories[:] = sorted(name for name in directories if left_out.has_exceptions or not stays_out(name))
        yield from (os.path.join(directory, name) for name in sorted(names) if not stays_out(name))


def _content(path: str) -> bytes:
    """Return what an image gets of a file: its bytes, or where a link leads to."""
    if os.path.islink(path):
        return f"link to {os.readlink(path)}".encode()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def tree_digest(context: str, sources: tuple[str, ...] = (".",), dockerfile: str | None = None) -> str:
    """Return a digest of a directory's files, or of those below some of its paths: relative path, executable bit and content.

    A Dockerfile counts even where .dockerignore names it, because the builder reads it all the same. Raises ImageError when the directory or one of the paths
    is not there, or all of a path is ignored.
    """
    if not os.path.isdir(context):
        raise ImageError(f"{context} is not there, but an image is built from it.")
    left_out = ignored(context)
    paths: dict[str, None] = {}
    for source in sources:
        found = [path for below in _below(context, source) if not left_out(below) for path in _files(context, below, left_out)]
        if not found:
            raise ImageError(f"All of {os.path.join(context, source)} is kept out by {context}/.dockerignore, but an image is built from it.")
        paths.update(dict.fromkeys(found))
    if dockerfile and os.path.isfile(os.path.join(context, dockerfile)):
        paths.setdefault(os.path.join(context, dockerfile))
    digest = hashlib.sha256()
    for path in paths:
        executable = os.access(path, os.X_OK) and not os.path.islink(path)
        digest.update(os.path.relpath(path, context).encode(errors="surrogateescape") + f"\0{executable}\0".encode() + _content(path) + b"\n")
    return digest.hexdigest()


# --- Plans


def mirrored(registry: str, reference: str) -> str:
    """Return a reference of Docker Hub as a mirror of it serves it, by the path alone. One with a host of its own is left alone."""
    if not registry or registry_of(reference) != "docker.io":
        return reference
    path = reference.removeprefix("docker.io/")
    return f"{registry}{path if '/' in path.partition('@')[0] else f'library/{path}'}"


def kept_by(reference: str) -> str | None:
    """Return the tag that the module image_pull gives an image of a digest, None for a reference without one."""
    repository, version = split_reference(reference)
    return f"{repository}:locked-{version.removeprefix('sha256:')[:12]}" if "@" in reference else None


class Planner:
    """Gives the images of a catalogue their references. Each directory is digested once."""

    def __init__(self, catalogue: Mapping[str, Definition], naming: Naming):
        self._catalogue = catalogue
        self._naming = naming
        self._digests: dict[tuple[str, tuple[str, ...], str], str] = {}

    def plan(self, source: str) -> Plan:
        """Return the plan of a source: with `pull` the images that have an upstream reference are pulled, with `build` all that can be are built.

        Raises ImageError on a context or a parent that cannot be used.
        """
        plan: Plan = {}
        for key in self._catalogue:
            self._add(plan, key, source, ())
        return plan

    def _digest(self, context: str, sources: tuple[str, ...], dockerfile: str) -> str:
        asked = (context, sources, dockerfile)
        if asked not in self._digests:
            self._digests[asked] = tree_digest(*asked)
        return self._digests[asked]

    def _add(self, plan: Plan, key: str, source: str, children: tuple[str, ...]) -> Image:
        if key in children:
            raise ImageError(f"The image {key} is its own parent: {' -> '.join([*children, key])}. Correct parents in {DEFINITIONS}.")
        if key not in plan:
            definition, naming = self._catalogue[key], self._naming
            buildable = "context" in definition or "suite" in definition
            upstream = naming.upstream.get(key) or (definition.get("upstream") if source == "pull" or not buildable else None)
            parents = {} if upstream else definition.get("parents") or {}
            for parent in parents.values():
                self._add(plan, parent, source, (*children, key))
            plan[key] = self._pulled(key, upstream) if upstream else self._built(key, plan, parents)
        return plan[key]

    def _pulled(self, key: str, upstream: str) -> Image:
        tagged = mirrored(self._naming.registry, upstream)
        digest = self._naming.lock.get(tagged)
        reference = f"{tagged}@{digest}" if digest else tagged
        return {"key": key, "reference": reference, "tagged": tagged, "kept": kept_by(reference), "how": "pull", "parents": []}

    def _built(self, key: str, plan: Plan, parents: Mapping[str, str]) -> Image:
        definition = self._catalogue[key]
        context = definition.get("context")
        build = {
            "dockerfile": definition.get("dockerfile", "Dockerfile"),
            "target": definition.get("target"),
            "suite": definition.get("suite"),
            "include": definition.get("include", []),
            "args": {
                **{argument: str(value) for argument, value in (definition.get("args") or {}).items()},
                **{argument: plan[parent]["reference"] for argument, parent in parents.items()},
            },
        }
        # A Dockerfile says which of a context's files go into an image; a definition with sources says the same, and a test compares them.
        sources = (*definition["sources"], build["dockerfile"]) if "sources" in definition else (".",)
        digest = self._digest(context, sources, build["dockerfile"]) if context else None
        content = json.dumps([build, digest, str(self._naming.revision)], sort_keys=True)
        ancestors = [ancestor for parent in parents.values() for ancestor in [*plan[parent]["parents"], parent]]
        suites = [self._catalogue[ancestor]["suite"] for ancestor in ancestors if "suite" in self._catalogue[ancestor]]
        return {
            **build,
            "key": key,
            "reference": f"{self._naming.prefix}{key}:{hashlib.sha256(content.encode()).hexdigest()[:12]}",
            "how": "build",
            "context": context,
            "parents": list(dict.fromkeys(ancestors)),
            "base_suite": suites[0] if suites else None,
            "expected_seconds": definition.get("expected_seconds", 0),
        }


def mixed(pulled: Plan, built: Plan, unavailable: Collection[str]) -> Plan:
    """Return the plan that pulls what there is, and builds what is ``unavailable``, with what it is built from and what is built from it.

    An image is built from parents of one kind, so that its reference is the one that either plan gives it.
    """
    building: set[str] = set()
    more = set(unavailable)
    while more - building:
        building |= more
        more = {key for key, image in pulled.items() if building & set(image["parents"])}
        more |= {parent for key in building | more for parent in built[key]["parents"]}
    return {key: built[key] if key in building else image for key, image in pulled.items()} | {key: built[key] for key in built if key not in pulled}


def with_parents(keys: Iterable[str], plan: Plan) -> list[str]:
    """Return keys of a plan with those of their parents, parents first and each once."""
    return list(dict.fromkeys(name for key in keys for name in [*plan[key]["parents"], key]))


def candidates(plans: Iterable[Plan], required: Collection[str]) -> list[str]:
    """Return the references that a host has to be asked for, as the source may be known only after it was asked."""
    found = [plan[key] for plan in plans for key in with_parents(required, plan)]
    return sorted({reference for image in found for reference in (image["reference"], image.get("kept")) if reference})


def dockerfile_problems(
    required: Collection[str], plan: Plan, definitions: Collection[str], app_source: str | None, places: Mapping[str, str] | None = None
) -> list[str]:
    """Return a message for every image that has to be built and whose Dockerfile is not there, by the variable that names its context."""
    problems = []
    for image in (plan[key] for key in with_parents(required, plan)):
        path = os.path.join(image["context"], image["dockerfile"]) if image.get("context") else None
        if path and not os.path.isfile(path):
            own = app_source is not None and image["context"] == os.path.realpath(app_source)
            variable = place_of(image["key"], places or {}) if image["key"] in definitions else "images_app_source" if own else "images_files"
            problems.append(f"{variable}: {path} is not there, but the image {image['key']} is built from it. Create it, or name another.")
    return problems


def _pulled(required: Collection[str], plan: Plan) -> list[Image]:
    return [plan[key] for key in with_parents(required, plan) if plan[key]["how"] == "pull"]


def not_locked(required: Collection[str], plan: Plan) -> list[str]:
    """Return the references of what is pulled, parents included, without a digest."""
    return [image["reference"] for image in _pulled(required, plan) if "@sha256:" not in image["reference"]]


def tagged(required: Collection[str], plan: Plan) -> dict[str, str]:
    """Return references by key that a lock file has: of what is pulled, parents included, unless a reference names a digest itself."""
    return {image["key"]: image["tagged"] for image in _pulled(required, plan) if "@" not in image["tagged"]}


# --- What is on a host


def missing(required: Collection[str], plan: Plan, present: Mapping[str, str]) -> list[Image]:
    """Return the images that a host does not have yet, parents first: those required, and of what has to be built for them the parents.

    ``present`` is ids by reference, of the images that the Engine has. An image of a bundle is there when its reference leads to its id, because another build
    may have the same tag. An image of a digest is there when it also has the tag that keeps it, because `docker image prune` would remove it without.
    """

    def is_there(image: Image) -> bool:
        found = present.get(image["reference"])
        kept = present.get(image["kept"]) if image.get("kept") else found
        return found is not None and found == kept == image.get("id", found)

    lacking = [key for key in required if not is_there(plan[key])]
    return [plan[key] for key in with_parents(lacking, plan) if not is_there(plan[key])]


def source_of(wanted: str, recorded: str | None) -> str:
    """Return where images come from: `auto` is what the host has a record of, and without a record `build`, which needs no registry."""
    return wanted if wanted != "auto" else recorded or "build"


def debian_archive(given: str | None, facts: Mapping[str, Any]) -> str | None:
    """Return the URI of the Debian archive that builds use: the one that is given, or that of the machine's own apt configuration."""
    own = (facts.get("apt_sources") or {}).get("uri") if facts["distribution"]["id"] == "debian" else None
    return given or own
