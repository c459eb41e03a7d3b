# SPDX-License-Identifier: GPL-3.0-or-later
"""What images are called and made of, what an inventory may say of its own, and which of them a host lacks."""

import json
import os

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils import hosts, images
from ansible_collections.campaign.platform.plugins.plugin_utils.images import ImageError, Naming, Planner

CATALOGUE = {
    "base": {"suite": "trixie", "include": ["ca-certificates"]},
    "node": {"upstream": "docker.io/node:1", "context": "node", "parents": {"BASE": "base"}},
    "redis": {"upstream": "docker.io/redis:8", "context": "node", "parents": {"BASE": "base"}},
    "api": {"context": "app", "target": "runtime", "parents": {"NODE": "node"}, "expected_seconds": 40},
}
REFERENCE = {"pattern": "[a-z0-9][a-zA-Z0-9._:/-]*(@sha256:[0-9a-f]{64})?", "hint": "an image reference"}
DIGEST = "sha256:" + "0123456789ab" + "0" * 52


@pytest.fixture
def files(tmp_path):
    for name in ("app", "node", "mailer", "own/packages/api"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "app/file").write_text("content")
    (tmp_path / "app/.dockerignore").write_text("**/node_modules\n")
    return tmp_path


def plan(files, source="build", definitions=None, app_source=None, **naming):
    catalogue = images.catalogue_of(CATALOGUE, str(files), definitions or {}, app_source)
    return Planner(catalogue, Naming(**{"prefix": "p/", "registry": "mirror/", **naming})).plan(source)


def test_an_image_s_tag_follows_what_goes_into_it(files):
    before = plan(files)
    assert plan(files) == before
    assert json.loads(json.dumps(before)) == before
    (files / "app/node_modules").mkdir()
    (files / "app/node_modules/x").write_text("ignored")
    os.utime(files / "app/file", (1, 1))
    assert plan(files) == before
    (files / "app/file").write_text("changed")
    changed = plan(files)
    assert {key for key in before if changed[key]["reference"] != before[key]["reference"]} == {"api"}
    assert {key for key in before if plan(files, revision="2")[key]["reference"] != before[key]["reference"]} == set(before)


@pytest.mark.parametrize(
    ("edit", "same"),
    [
        (lambda app: (app / "file").chmod(0o755), False),
        (lambda app: (app / "file").rename(app / "other"), False),
        (lambda app: (app / "link").symlink_to("file"), False),
        (lambda app: (app / "broken").symlink_to("/nowhere/at/all"), False),
        (lambda app: (app / "directory").symlink_to("/tmp"), False),
        (lambda app: (app / "empty").mkdir(), True),
        (lambda app: (app / "Dockerfile").write_text("FROM other\n"), False),
    ],
    ids=["mode", "name", "link", "broken link", "link to a directory", "empty directory", "Dockerfile"],
)
def test_what_counts_of_a_context(files, edit, same):
    before = images.tree_digest(str(files / "app"))
    edit(files / "app")
    assert (images.tree_digest(str(files / "app")) == before) is same


def test_a_dockerfile_counts_although_it_is_ignored(files):
    (files / "app/.dockerignore").write_text("Dockerfile\n.dockerignore\n")
    before = plan(files)["api"]["reference"]
    (files / "app/Dockerfile").write_text("FROM other\n")
    assert plan(files)["api"]["reference"] != before


IGNORED = [
    # A pattern stands for the top of the context, unless it says otherwise: https://docs.docker.com/build/concepts/context/#matching
    ("dist", "dist", True),
    ("dist", "dist/a/b", True),
    ("dist", "packages/dist", False),
    ("/dist/", "dist/a", True),
    ("**/dist", "dist", True),
    ("**/dist", "packages/a/dist/b", True),
    ("**/dist", "packages/a/distance", False),
    ("*.md", "README.md", True),
    ("*.md", "docs/README.md", False),
    ("**/*.md", "docs/README.md", True),
    ("docs/*/draft", "docs/a/draft", True),
    ("docs/*/draft", "docs/a/b/draft", False),
    ("a?c", "abc", True),
    ("a?c", "a/c", False),
    ("x[0-9]", "x7", True),
    ("x[0-9]", "xy", False),
    ("packages/**", "packages/a/b", True),
    ("a.b", "axb", False),
    ("# dist", "# dist", False),
    ("./dist", "dist", True),
    ("*\n!keep", "keep", False),
    ("*\n!keep", "other", True),
    ("!keep\n*", "keep", True),
    ("dist\n!dist/a", "dist/a", False),
    ("", "dist", False),
]


@pytest.mark.parametrize(("lines", "path", "is_ignored"), IGNORED, ids=range(len(IGNORED)))
def test_an_ignore_file_is_read_as_the_builder_reads_it(lines, path, is_ignored):
    assert images.Ignored(lines.splitlines())(path) is is_ignored


def test_an_exception_in_an_ignored_directory_counts(files):
    (files / "app/dist").mkdir()
    (files / "app/dist/kept").write_text("1")
    (files / "app/.dockerignore").write_text("dist\n!dist/kept\n")
    before = images.tree_digest(str(files / "app"))
    (files / "app/dist/left_out").write_text("1")
    assert images.tree_digest(str(files / "app")) == before
    (files / "app/dist/kept").write_text("2")
    assert images.tree_digest(str(files / "app")) != before


def test_parents_come_first_and_are_arguments(files):
    made = plan(files)
    assert made["api"]["parents"] == ["base", "node"]
    assert made["api"]["args"] == {"NODE": made["node"]["reference"]}
    assert made["api"]["base_suite"] == "trixie"
    assert {key: image["expected_seconds"] for key, image in made.items()} == {"base": 0, "node": 0, "redis": 0, "api": 40}
    assert list(made) == ["base", "node", "redis", "api"]
    assert {image["how"] for image in made.values()} == {"build"}


def test_pulled_images_have_no_parents_and_go_through_the_mirror(files):
    made = plan(files, source="pull")
    assert (made["node"]["reference"], made["node"]["how"], made["node"]["parents"]) == ("mirror/library/node:1", "pull", [])
    assert (made["api"]["how"], made["api"]["args"]) == ("build", {"NODE": "mirror/library/node:1"})
    for source in ("pull", "build"):
        named = plan(files, source=source, upstream={"api": "own/api:1"})["api"]
        assert (named["reference"], named["how"], named["parents"]) == ("mirror/own/api:1", "pull", [])


def test_a_locked_reference_is_pulled_by_its_digest(files):
    lock = {"mirror/library/node:1": DIGEST, "docker.io/node:1": "sha256:" + "1" * 64}
    node = plan(files, source="pull", lock=lock)["node"]
    assert (node["reference"], node["tagged"]) == (f"mirror/library/node:1@{DIGEST}", "mirror/library/node:1")
    assert node["kept"] == "mirror/library/node:locked-0123456789ab"
    assert plan(files, source="pull")["node"]["kept"] is None
    assert plan(files, lock=lock)["node"]["how"] == "build"


def test_what_is_pulled_for_a_build_has_to_be_locked_too(files):
    node, redis = "mirror/library/node:1", "mirror/library/redis:8"
    made = plan(files, source="pull")
    assert images.not_locked(["api", "redis"], made) == list(images.tagged(["api", "redis"], made).values()) == [node, redis]
    # What is locked is locked again; what an inventory names by a digest needs no lock.
    made = plan(files, source="pull", upstream={"redis": f"redis:8@{DIGEST}"}, lock={node: DIGEST})
    assert images.not_locked(["api", "redis"], made) == []
    assert images.tagged(["api", "redis"], made) == {"node": node}


def test_definitions_of_an_inventory_are_built_or_pulled_like_the_others(files):
    definitions = {
        "mailer": {"context": str(files / "mailer"), "parents": {"NODE_IMAGE": "node"}, "args": {"LEVEL": 3}, "target": None},
        "mta": {"upstream": "docker.io/mta:4"},
        "both": {"upstream": "docker.io/both:1", "context": str(files / "mailer")},
        # Instead of the built-in one, as a whole.
        "redis": {"upstream": "docker.io/valkey:9"},
    }
    built, pulled = plan(files, definitions=definitions), plan(files, source="pull", definitions=definitions)
    assert (built["mailer"]["how"], built["mailer"]["context"]) == ("build", str(files / "mailer"))
    assert built["mailer"]["args"] == {"LEVEL": "3", "NODE_IMAGE": built["node"]["reference"]}
    assert built["mailer"]["parents"] == ["base", "node"]
    for made in (built, pulled):
        assert (made["mta"]["reference"], made["redis"]["reference"]) == ("mirror/library/mta:4", "mirror/library/valkey:9")
    assert (built["both"]["how"], pulled["both"]["how"]) == ("build", "pull")
    (files / "mailer/new").write_text("")
    assert plan(files, definitions=definitions)["mailer"]["reference"] != built["mailer"]["reference"]


PROBLEMS = [
    ({"m": {}}, "images_definitions.m has neither upstream nor context"),
    ({"m": {"upstream": None}}, "images_definitions.m has neither upstream nor context"),
    ({"m": {"upstream": "a:1", "contxt": "/x"}}, "images_definitions.m.contxt is not known. Did you mean context?"),
    ({"m": {"context": "relative"}}, "images_definitions.m.context must be an absolute path"),
    ({"m": {"context": "/nowhere/at/all"}}, "images_definitions.m.context: /nowhere/at/all is not a directory on this machine"),
    ({"m": {"upstream": "no reference"}}, "images_definitions.m: upstream must be an image reference"),
    ({"m": {"upstream": 4}}, "images_definitions.m.upstream must be text"),
    ({"m": {"upstream": "a:1", "target": ["x"]}}, "images_definitions.m.target must be text"),
    ({"m": {"upstream": "a:1", "args": ["x"]}}, "images_definitions.m.args must be a mapping"),
    ({"m": {"upstream": "a:1", "parents": ["x"]}}, "images_definitions.m.parents must be a mapping"),
    ({"m": {"upstream": "a:1", "parents": {"A": "nod"}}}, "images_definitions.m.parents.A: nod is not an image. Did you mean node?"),
    ({"m": "a:1"}, "images_definitions.m must be a mapping"),
    ({"Mailer": {"upstream": "a:1"}}, "images_definitions.Mailer: an image's key is made of"),
    (
        {"node": {"upstream": "a:1"}},
        "images_definitions.node: node is an image of the platform, and what is built from it would change too. Choose another key",
    ),
    ({"node": {"upstream": "a:1", "replaces": False}}, "images_definitions.node: node is an image of the platform"),
    ({"nod": {"upstream": "a:1", "replaces": True}}, "images_definitions.nod.replaces: there is no image nod of the platform. Did you mean node?"),
    ({"node": {"upstream": "a:1", "replaces": "true"}}, "images_definitions.node.replaces must be true or false"),
]


@pytest.mark.parametrize(("definitions", "told"), PROBLEMS, ids=range(len(PROBLEMS)))
def test_a_definition_that_cannot_be_used_is_refused_by_name(definitions, told):
    (problem,) = images.definition_problems(definitions, CATALOGUE, REFERENCE)
    assert problem.startswith(told)


def test_messages_begin_with_where_a_person_wrote_it():
    places = {"m": "stack_services.mailer.images.m", "redis2": "stack_services.mailer: the image of the container mailer"}
    (problem,) = images.definition_problems({"m": {}}, CATALOGUE, REFERENCE, places=places)
    assert problem.startswith("stack_services.mailer.images.m has neither upstream nor context")
    values = {"images_upstream": {}, "images_lock": {}, "images_required": ["redis2"], "images_places": places}
    rules = {"images_upstream": REFERENCE, "images_lock": REFERENCE}
    assert images.value_problems(values, CATALOGUE, rules) == [
        "stack_services.mailer: the image of the container mailer: redis2 is not an image. Did you mean redis?"
    ]


def test_right_definitions_are_no_problem(files):
    right = {
        "m": {"context": str(files / "mailer"), "parents": {"A": "n"}},
        "n": {"upstream": "a:1", "context": None, "args": {"x": 1}},
        "node": {"upstream": "a:1", "replaces": True},
    }
    assert list(images.definition_problems(right, CATALOGUE, REFERENCE)) == []


def test_a_controller_that_loads_images_needs_no_contexts():
    assert list(images.definition_problems({"m": {"context": "/nowhere/at/all"}}, CATALOGUE, REFERENCE, with_contexts=False)) == []


def test_an_image_is_not_its_own_parent(files):
    context = str(files / "mailer")
    definitions = {"a": {"context": context, "parents": {"X": "b"}}, "b": {"context": context, "parents": {"X": "a"}}}
    with pytest.raises(ImageError, match="The image a is its own parent: a -> b -> a"):
        plan(files, definitions=definitions)


def test_an_application_of_one_s_own_takes_the_place_of_the_collection_s(files):
    catalogue = {**CATALOGUE, "api": {**CATALOGUE["api"], "dockerfile": "packages/api/Dockerfile", "sources": ["gone"]}}
    combined = images.catalogue_of(catalogue, str(files), {}, str(files / "own"))
    assert combined["api"]["context"] == str(files / "own")
    assert combined["node"]["context"] == str(files / "node")
    before = Planner(combined, Naming("p/")).plan("build")
    # No list of sources: any file counts.
    (files / "own/anything").write_text("")
    after = Planner(combined, Naming("p/")).plan("build")
    assert {key for key in after if after[key]["reference"] != before[key]["reference"]} == {"api"}
    assert images.dockerfile_problems(["api"], after, {}, str(files / "own")) == []


@pytest.mark.parametrize(
    ("key", "definitions", "own", "variable"),
    [
        ("mailer", True, False, "images_definitions.mailer: {}/mailer/Dockerfile is not there, but the image mailer is built from it"),
        ("api", False, True, "images_app_source: {}/own/Dockerfile is not there, but the image api is built from it"),
        ("node", False, False, "images_files: {}/node/Dockerfile is not there, but the image node is built from it"),
    ],
)
def test_a_dockerfile_that_is_not_there_is_named_with_its_variable(files, key, definitions, own, variable):
    for path in ("mailer/Dockerfile", "node/Dockerfile"):
        (files / path).unlink()
    (files / "node/x").write_text("")
    (files / "mailer/x").write_text("")
    defined = {"mailer": {"context": str(files / "mailer")}} if definitions else {}
    app_source = str(files / "own") if own else None
    found = images.dockerfile_problems([key], plan(files, definitions=defined, app_source=app_source), defined, app_source)
    assert any(problem.startswith(variable.format(files)) for problem in found), found
    assert images.dockerfile_problems([key], plan(files, source="pull", upstream={key: "a:1"}, definitions=defined), defined, app_source) == []


def test_wrong_keys_and_values_are_named():
    values = {"images_upstream": {"rediss": "a:1", "node": "a b"}, "images_required": ["api", "postgres"], "images_lock": {"a:1": "sha256:1"}}
    rules = {"images_upstream": REFERENCE, "images_lock": {"pattern": "sha256:[0-9a-f]{64}", "hint": "a digest"}}
    assert images.value_problems(values, CATALOGUE, rules) == [
        "images_upstream: rediss is not a known setting. Did you mean redis?",
        "images_upstream: node must be an image reference, but it is 3 characters of letters, blanks.",
        "images_required: postgres is not an image. Known are api, base, node, redis.",
        "images_lock: a:1 must be a digest, but it is 8 characters of letters, digits, other characters.",
    ]


def test_a_host_is_asked_for_what_is_required_and_its_parents_from_either_source(files):
    built, pulled = plan(files), plan(files, source="pull", lock={"mirror/library/node:1": DIGEST})
    asked = images.candidates([built, pulled], ["api", "node"])
    assert asked == sorted(
        {
            *(built[key]["reference"] for key in ("api", "node", "base")),
            pulled["api"]["reference"],
            f"mirror/library/node:1@{DIGEST}",
            "mirror/library/node:locked-0123456789ab",
        }
    )


def there(plan, *keys):
    return {plan[key]["reference"]: f"id of {key}" for key in keys}


@pytest.mark.parametrize(
    ("required", "present", "missing"),
    [
        (["api"], [], ["base", "node", "api"]),
        (["api"], ["base"], ["node", "api"]),
        # What it was built from is of no interest when an image is there.
        (["api"], ["api"], []),
        (["redis", "api"], ["base", "node"], ["redis", "api"]),
        (["api", "node"], ["api"], ["base", "node"]),
        (["node", "redis"], [], ["base", "node", "redis"]),
    ],
)
def test_what_is_missing_comes_parents_first_and_once(files, required, present, missing):
    made = plan(files)
    assert [image["key"] for image in images.missing(required, made, there(made, *present))] == missing


def test_an_image_of_a_bundle_is_there_under_its_own_id_only():
    loaded = {"redis": {"key": "redis", "reference": "redis:8", "id": "sha256:a", "how": "load", "parents": []}}
    assert images.missing(["redis"], loaded, {"redis:8": "sha256:a"}) == []
    assert images.missing(["redis"], loaded, {"redis:8": "sha256:b"}) == [loaded["redis"]]
    assert images.missing(["redis"], loaded, {}) == [loaded["redis"]]


def test_an_image_that_lost_the_tag_that_keeps_it_is_brought_again(files):
    made = plan(files, source="pull", lock={"mirror/library/redis:8": DIGEST})
    reference, kept = made["redis"]["reference"], made["redis"]["kept"]
    assert images.missing(["redis"], made, {reference: "sha256:a", kept: "sha256:a"}) == []
    assert images.missing(["redis"], made, {reference: "sha256:a"}) == [made["redis"]]
    assert images.missing(["redis"], made, {reference: "sha256:a", kept: "sha256:b"}) == [made["redis"]]
    assert images.missing(["redis"], made, {kept: "sha256:a"}) == [made["redis"]]


@pytest.mark.parametrize(
    ("wanted", "recorded", "source"),
    [
        ("auto", None, "build"),
        ("auto", "pull", "pull"),
        ("auto", "build", "build"),
        ("pull", "build", "pull"),
        ("build", "pull", "build"),
        ("load", None, "load"),
    ],
)
def test_a_choice_that_was_recorded_stays_until_a_person_names_another(wanted, recorded, source):
    assert images.source_of(wanted, recorded) == source


MIRRORED = [
    # As a pull-through cache serves them: without the name of Docker Hub, and with the namespace of its official images.
    ("docker.io/postgis/postgis:18", "mirror.example.com/postgis/postgis:18"),
    ("docker.io/library/redis:8", "mirror.example.com/library/redis:8"),
    ("docker.io/redis:8", "mirror.example.com/library/redis:8"),
    ("redis:8", "mirror.example.com/library/redis:8"),
    (f"redis@{DIGEST}", f"mirror.example.com/library/redis@{DIGEST}"),
    ("own/api:1", "mirror.example.com/own/api:1"),
    # Left alone: a mirror of Docker Hub has none of them.
    ("ghcr.io/own/api:1", "ghcr.io/own/api:1"),
    ("registry.example.com:5000/api:1", "registry.example.com:5000/api:1"),
    ("localhost/api:1", "localhost/api:1"),
]


@pytest.mark.parametrize(("reference", "served"), MIRRORED)
def test_a_mirror_is_asked_for_what_docker_hub_has_and_for_nothing_else(reference, served):
    assert images.mirrored("mirror.example.com/", reference) == served
    assert images.mirrored("", reference) == reference


MIXED = [
    ([], {"base": "build", "node": "pull", "redis": "pull", "api": "build"}, "library/node:1"),
    # Redis is built, and its base with it.
    (["redis"], {"base": "build", "node": "pull", "redis": "build", "api": "build"}, "library/node:1"),
    # What is built from it is built from the one that is built.
    (["node"], {"base": "build", "node": "build", "redis": "pull", "api": "build"}, "p/node:"),
    (["node", "redis", "api"], {"base": "build", "node": "build", "redis": "build", "api": "build"}, "p/node:"),
]


@pytest.mark.parametrize(("unavailable", "how", "parent"), MIXED)
def test_what_a_registry_does_not_have_is_built_with_all_that_belongs_to_it(files, unavailable, how, parent):
    pulled, built = plan(files, source="pull"), plan(files)
    made = images.mixed(pulled, built, unavailable)
    assert {key: image["how"] for key, image in made.items()} == how
    assert parent in made["api"]["args"]["NODE"]
    # Each argument is the reference of an image of this very plan.
    assert made["api"]["args"]["NODE"] == made["node"]["reference"]
    assert {image["key"] for image in images.missing(["api", "redis"], made, {})} >= {"api", "redis"}


def test_images_of_one_plan_have_their_parents_in_it(files):
    # What is built from one image that is built takes the other as it is built too.
    definitions = {
        "nginx": {"upstream": "docker.io/nginx:1", "context": str(files / "node"), "parents": {"BASE": "base"}},
        "page": {"context": str(files / "mailer"), "parents": {"NODE": "node", "NGINX": "nginx"}},
    }
    made = images.mixed(plan(files, source="pull", definitions=definitions), plan(files, definitions=definitions), ["node"])
    assert made["page"]["args"] == {"NODE": made["node"]["reference"], "NGINX": made["nginx"]["reference"]}
    assert made["nginx"]["how"] == "build"


@pytest.mark.parametrize(
    ("given", "distribution", "sources", "mirror"),
    [
        (None, "debian", {"uri": "http://one"}, "http://one"),
        ("http://two", "debian", {"uri": "http://one"}, "http://two"),
        ("http://two", "ubuntu", None, "http://two"),
        # Ubuntu's archive has no Debian in it.
        (None, "ubuntu", {"uri": "http://one"}, None),
        (None, "debian", None, None),
    ],
)
def test_builds_use_the_archive_that_is_given_or_the_machine_s_own(given, distribution, sources, mirror):
    assert images.debian_archive(given, {"distribution": {"id": distribution}, "apt_sources": sources}) == mirror


# --- The Docker host

PACKAGES = {"engine": ["docker.io", "iptables"], "compose": ["docker-compose"], "buildx": ["docker-buildx"]}


def facts(**changed):
    return {"engine": {"version": "26.1.5"}, "engine_installed": True, "compose": "2.40.3", "buildx": "0.29.1", **changed}


@pytest.mark.parametrize(
    ("changed", "lacking", "packages"),
    [
        ({}, [], []),
        ({"engine": None, "engine_installed": False}, ["engine"], ["docker.io", "iptables"]),
        # It is started, and nothing is installed over it.
        ({"engine": None}, ["engine"], []),
        ({"engine": None, "compose": None}, ["engine", "compose"], ["docker-compose"]),
        ({"compose": None, "buildx": None}, ["compose", "buildx"], ["docker-compose", "docker-buildx"]),
        (
            {"engine": None, "engine_installed": False, "compose": None, "buildx": None},
            ["engine", "compose", "buildx"],
            ["docker.io", "iptables", "docker-compose", "docker-buildx"],
        ),
    ],
)
def test_what_is_lacking_is_installed_and_nothing_else(changed, lacking, packages):
    assert hosts.lacking(facts(**changed)) == lacking
    assert hosts.packages(facts(**changed), PACKAGES) == ["python3-requests", *packages]


@pytest.mark.parametrize(
    ("row", "ports"),
    [
        ({"busy": False, "project": None}, []),
        ({"busy": True, "project": None}, [80]),
        ({"busy": True, "project": "campaign"}, []),
        ({"busy": True, "project": "other"}, [80]),
        # The Engine does not say whose it is.
        ({"busy": True, "project": None, "docker": True}, []),
    ],
)
def test_a_port_that_is_free_or_the_project_s_own_is_not_taken(row, ports):
    assert hosts.taken({"ports": [{"address": "0.0.0.0", "port": 80, "docker": False, **row}]}, "campaign") == ports


def test_the_catalogue_of_the_collection_can_be_planned(root):
    catalogue = yaml.safe_load((root / "roles/images/vars/main/catalogue.yml").read_text())["__images_catalogue"]
    planner = Planner(images.catalogue_of(catalogue, str(root / "files"), {}, None), Naming("campaign/"))
    for source in ("pull", "build"):
        made = planner.plan(source)
        assert images.dockerfile_problems(list(made), made, {}, None) == []
        assert len({image["reference"] for image in made.values()}) == len(catalogue)
