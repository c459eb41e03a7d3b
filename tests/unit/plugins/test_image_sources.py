# SPDX-License-Identifier: GPL-3.0-or-later
"""An edit gives a new tag to the images that it goes into, and to no other."""

import glob
import os
import shutil
from pathlib import Path

import pytest
import yaml
from ansible_collections.campaign.platform.plugins.plugin_utils import images

ROOT = Path(__file__).resolve().parents[3]
APP = ROOT / "files/app"
CATALOGUE = yaml.safe_load((ROOT / "roles/images/vars/main/catalogue.yml").read_text())["__images_catalogue"]
OF_THE_APPLICATION = {key for key, definition in CATALOGUE.items() if definition.get("context") == "app"}
SERVICES = {"api", "rules-engine", "scheduler"}


def references(files: Path, catalogue=CATALOGUE) -> dict[str, str]:
    planner = images.Planner(images.catalogue_of(catalogue, str(files), {}, None), images.Naming("p/"))
    return {key: image["reference"] for key, image in planner.plan("build").items()}


@pytest.fixture
def files(tmp_path):
    copy = tmp_path / "files"
    shutil.copytree(ROOT / "files", copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    return copy


EDITS = {
    "packages/api/src/main.ts": {"dev", "api"},
    "packages/api/src/another.ts": {"dev", "api"},
    "packages/rules-engine/src/main.ts": {"dev", "rules-engine"},
    "packages/scheduler/src/tick.ts": {"dev", "scheduler"},
    "packages/shared/src/redis.ts": {"dev", *SERVICES},
    "packages/shared/src/api.ts": {"dev", "frontend", *SERVICES},
    "packages/frontend/src/App.tsx": {"dev", "frontend"},
    "packages/frontend/public/favicon.svg": {"dev", "frontend"},
    "packages/frontend/nginx/default.conf": {"dev", "frontend"},
    "packages/frontend/index.html": {"dev", "frontend"},
    "packages/frontend/vite.config.ts": {"dev", "frontend"},
    "scripts/bundle.mjs": {"dev", *SERVICES},
    "scripts/build.mjs": {"dev", *SERVICES},
    "tsconfig.json": {"dev", "frontend", *SERVICES},
    "packages/api/Dockerfile": {"dev", "api"},
    "packages/frontend/Dockerfile": {"dev", "frontend"},
    # What all npm packages depend on.
    "package.json": OF_THE_APPLICATION,
    "package-lock.json": OF_THE_APPLICATION,
    "packages/scheduler/package.json": OF_THE_APPLICATION,
    "Dockerfile": OF_THE_APPLICATION,
    # What is there for development only.
    "packages/api/test/app.test.ts": {"dev"},
    "packages/shared/vitest.config.ts": {"dev"},
    "scripts/dev.mjs": {"dev"},
    "eslint.config.js": {"dev"},
    "dev.Dockerfile": {"dev"},
    # What .dockerignore keeps out.
    "README.md": set(),
    "packages/api/dist/main.mjs": set(),
    "packages/api/src/node_modules/x.ts": set(),
}


@pytest.mark.parametrize(("path", "changed"), EDITS.items(), ids=EDITS)
def test_an_edit_changes_the_tags_of_what_it_goes_into(files, path, changed):
    before = references(files)
    file = files / "app" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((file.read_text() if file.exists() else "") + "\n")
    after = references(files)
    assert {key for key in after if after[key] != before[key]} == changed


def test_every_package_is_edited_above():
    packages = {path.parent.name for path in APP.glob("packages/*/package.json")}
    assert packages == {path.split("/")[1] for path in EDITS if "/src/" in path}


def copied(dockerfile: Path) -> set[str]:
    """Paths of the context that a Dockerfile copies."""
    instructions = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    # A mount of the context would be another way in.
    assert [line for line in instructions if line.split()[:1] == ["ADD"] or "type=bind" in line] == []
    words = [line.split()[1:] for line in instructions if line.split()[:1] == ["COPY"] and "--from=" not in line]
    return {os.path.normpath(word) for line in words for word in [word for word in line if not word.startswith("--")][:-1]}


@pytest.mark.parametrize("key", sorted(OF_THE_APPLICATION))
def test_a_dockerfile_copies_what_the_catalogue_names(key):
    definition = CATALOGUE[key]
    sources = definition.get("sources", ["."])
    assert copied(APP / definition.get("dockerfile", "Dockerfile")) == {path for source in sources for path in glob.glob(source, root_dir=APP)}


def test_only_the_image_for_development_is_made_of_everything():
    assert {key for key in OF_THE_APPLICATION if "sources" not in CATALOGUE[key]} == {"dev"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("packages/gone/src", r"app/packages/gone/src is not there"),
        ("packages/*/gone.json", r"app/packages/\*/gone.json is not there"),
        ("packages/api/dist", r"app/packages/api/dist has no file that .*\.dockerignore lets into an image"),
        ("../images", r"The source \.\./images is not below"),
        ("/etc/passwd", r"The source /etc/passwd is not below"),
    ],
)
def test_a_source_that_gives_nothing_is_named(files, source, message):
    (files / "app/packages/api/dist").mkdir()
    (files / "app/packages/api/dist/main.mjs").write_text("")
    catalogue = {**CATALOGUE, "api": {**CATALOGUE["api"], "sources": ["tsconfig.json", source]}}
    with pytest.raises(images.ImageError, match=message):
        references(files, catalogue)
