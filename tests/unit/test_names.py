# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of names are derived from the catalogue; where a text spells one, it is the same."""

import re
import subprocess
from pathlib import Path

import yaml
from program import secret_names, tables

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = yaml.safe_load((ROOT / "roles/stack/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
# A service's own entry, the row of its image, and what is rendered from the argument spec.
OWN = re.compile(r"^roles/stack/vars/main/services/rules-engine\.yml$|^roles/images/vars/main(/catalogue)?\.yml$|README\.md$")
COLLECTION = ["roles", "plugins", "playbooks", "inventories", "meta", "examples", ".env.example", ".env.local.example", "site.yml", "galaxy.yml"]


def named_in(description) -> set[str]:
    return set(re.findall(r"\bC\(([a-z][a-z0-9_-]*)\)", " ".join([description] if isinstance(description, str) else description)))


def test_the_argument_spec_names_the_secrets_that_there_are():
    assert named_in(OPTIONS["stack_secrets"]["description"]) == {*secret_names(asked=True), "tls_private_key"}


def test_the_argument_spec_names_the_services_that_may_fetch_from_aws():
    signing_in = {name for entry in tables().services.values() for name in (entry.get("needs") or {}) if name not in (entry.get("jobs") or {})}
    assert named_in(OPTIONS["stack_aws_runtime_secret_ids"]["description"]) - {"egress-network"} == signing_in


def test_every_setting_that_is_a_variable_is_documented_with_its_name_in_the_environment():
    data = tables()
    settings = {name for entry in data.services.values() for name in entry.get("settings") or {}} | set(data.settings)
    for name in settings:
        option = OPTIONS.get(f"stack_{name.lower()}")
        # The others follow from the variant and the servers.
        assert (option is None) == (name in {"NODE_ENV", "S3_ENDPOINT", "VITE_API_URL"}), name
        assert option is None or f"C({name})" in " ".join([option["description"]] if isinstance(option["description"], str) else option["description"]), name


def test_a_service_is_named_in_its_own_entry_and_hardly_elsewhere():
    listed = subprocess.run(["git", "ls-files", "-z", "--", *COLLECTION], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    files = [name for name in listed if (ROOT / name).is_file() and not OWN.search(name)]
    naming = {name for name in files if re.search(r"rules[-_]engine", (ROOT / name).read_text(errors="replace"))}
    assert naming <= {
        # The names of the secrets, and of the services that may fetch theirs, for readers; the tests above compare them.
        "roles/stack/meta/argument_specs.yml",
        # A reference to an image, as an example in a comment.
        "inventories/prod/group_vars/campaign/stack.yml",
        # Which sources an archive needs.
        "roles/bundle/vars/main.yml",
    }
