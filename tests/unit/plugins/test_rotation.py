# SPDX-License-Identifier: GPL-3.0-or-later
"""Which secrets can have a new value, which value, and how it comes into the text of the file that holds it."""

import json
import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.campaign.platform.plugins.action import rotated_secrets
from ansible_collections.campaign.platform.plugins.plugin_utils import aws, generated, inputs, rotation
from ansible_collections.campaign.platform.plugins.plugin_utils.env_file import parse_env
from ansible_collections.campaign.platform.plugins.plugin_utils.rules import value_problem
from program import declare, placeholders, secret_names

NOW = 1_764_000_000


def declared(**given):
    """Return a declaration with a value for every secret that is not given."""
    secrets = placeholders(secret_names(given.get("stack_services")))
    found, _renderer, problems = declare({"stack_secrets": secrets, **given})
    assert found is not None, problems
    return found


def plan(names, keep_sessions=True, **given):
    return rotation.plan(declared(**given), names, NOW, keep_sessions=keep_sessions)


# --- Which


def test_all_are_all_that_are_generated():
    found = plan(["all"])
    assert found.problems == found.left == []
    assert found.names == secret_names()
    assert set(found.changes["inventory"]) == {*secret_names(), "jwt_secret_previous"}
    assert len(set(found.changes["inventory"].values())) == len(secret_names()) + 1


def test_a_service_of_the_inventory_is_part_of_all():
    entry = {
        "base": {"services": {"mailer": {"image": "x/mailer:1", "user": "10:10"}}},
        "needs": {"mailer": {"redis": "mailer"}},
        "logins": {"redis": {"mailer": {"acl": "-@all +ping"}}},
        "secrets": {"mailer": {"smtp_key": {"generated": False}}},
    }
    given = {"stack_services": {"mailer": entry}}
    found = plan(["all"], **given)
    assert "redis_mailer_password" in found.names
    assert [reason for reason in found.left if reason.startswith("smtp_key is issued by somebody else")] == found.left
    (problem,) = plan(["smtp_key"], **given).problems
    assert "Get a new one there" in problem


@pytest.mark.parametrize("readers", [("mailer",), ("api", "mailer"), ("mailer", "api")])
def test_a_key_that_data_is_encrypted_with_is_a_person_s(readers):
    """Whichever of its readers says so, and wherever it is listed without it before."""
    secrets = {name: {"mailer_key": {"rotated": False}} if name == "mailer" else ["mailer_key"] for name in readers}
    entry = {"base": {"services": {"mailer": {"image": "x/mailer:1", "user": "10:10"}}}, "secrets": secrets}
    given = {"stack_services": {"mailer": entry}}
    found = plan(["all"], **given)
    assert found.problems == []
    assert "mailer_key" not in found.names
    assert "mailer_key" not in found.changes["inventory"]
    (reason,) = found.left
    assert reason.startswith("mailer_key has `rotated: false` in its entry: what is stored under it cannot be read with another value.")
    named = plan(["redis_api_password", "mailer_key"], **given)
    assert (named.problems, named.changes) == ([reason], {})
    # Local generates it, and init_secrets writes it.
    assert "mailer_key" in declared(**given).secrets.generated


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("redis_api_pasword", "is not a secret of this stack. Did you mean redis_api_password?"),
        ("tls_private_key", "belongs to a certificate"),
        ("images_registry_password", "is of the registry"),
        ("backup_password", "is of the backups, and no container of the stack has it. Change it where your secrets stand, and run the playbook backup"),
        ("vault_backup_password", "is of the backups"),
        ("postgres_api_user", "is a name and not a secret"),
        ("redis_api_user", "is a name and not a secret"),
        ("jwt_secret_previous", "Name jwt_secret."),
    ],
)
def test_what_a_person_gives_is_refused_in_one_sentence(name, words):
    found = plan([name, "redis_api_password"])
    (problem,) = found.problems
    assert words in problem
    assert found.changes == {}
    assert problem.endswith((".", "?"))


def test_logins_of_external_servers_are_a_person_s():
    given = {
        "stack_postgres_external": {"host": "db.example.com"},
        "stack_redis_external": {"host": "redis.example.com"},
        "stack_s3_external": {"endpoint": "https://s3.example.com"},
    }
    for name, server in (("postgres_password", "PostgreSQL"), ("redis_api_password", "Redis"), ("s3_secret_key", "S3")):
        (problem,) = plan([name], **given).problems
        assert problem.startswith(f"{name} is of a login at the external {server}. Change it there first"), problem
    # The stack creates the services' own roles there.
    assert plan(["postgres_api_password"], **given).problems == []
    found = plan(["all"], **given)
    assert "postgres_api_password" in found.names
    assert len(found.left) == 6


def test_what_a_service_fetches_itself_is_a_person_s():
    given = {"stack_aws_region": "eu-central-1", "stack_aws_runtime_secret_ids": {"api": "x"}}
    for name in ("redis_api_password", "s3_access_key", "operator_password"):
        (problem, *_more) = plan([name], **given).problems
        assert "is fetched from AWS by api" in problem
    assert plan(["redis_scheduler_password", "postgres_password"], **given).problems == []


def test_a_value_with_a_rule_of_its_own_is_a_person_s():
    entry = {"base": {"services": {"mailer": {"image": "x/mailer:1", "user": "10:10"}}}, "secrets": {"mailer": {"mailer_pin": {"pattern": "[0-9]{20}"}}}}
    (problem,) = plan(["mailer_pin"], stack_services={"mailer": entry}).problems
    assert "has a rule of its own" in problem


def test_a_login_that_is_the_superuser_has_two_lines():
    given = {"stack_env_local": {"POSTGRES_PASSWORD": "x" * 20, "DATABASE_URL": f"postgres://campaign_user:{'x' * 20}@postgres:5432/campaign_db"}}
    (problem,) = plan(["postgres_password"], **given).problems
    assert "stands in two lines of .env.local" in problem


# --- New values


def test_a_key_at_minio_goes_with_its_secret():
    for name in ("s3_access_key", "s3_secret_key"):
        assert plan([name]).names == ["s3_access_key", "s3_secret_key"]
    assert plan(["minio_root_password"]).names == ["minio_root_password"]


def test_every_rule_allows_a_new_value():
    rules = declared().secrets.rules
    for name in secret_names():
        assert value_problem(rotation.new_value(), rules[name]) is None, name
    assert not [value for value in (rotation.new_value() for _time in range(500)) if value.startswith("-")]


def test_tokens_that_were_signed_before_stay_valid():
    changes = plan(["jwt_secret"], stack_jwt_expiration="12h").changes["inventory"]
    (row,) = json.loads(changes["jwt_secret_previous"])
    assert row == {"key": placeholders(["jwt_secret"])["jwt_secret"], "until": NOW + 12 * 3600 + rotation.DEPLOY_SECONDS}
    assert changes["jwt_secret"] != row["key"]
    assert value_problem(changes["jwt_secret_previous"], declared().secrets.rules["jwt_secret_previous"]) is None


def test_keys_whose_time_is_over_go_and_the_others_stay():
    text = json.dumps([{"key": "over-and-gone", "until": NOW - 1}, {"key": "still-there", "until": NOW + 5}])
    rows = json.loads(rotation.keys_before(text, 'a "present" \\ one é\n', "7d", NOW, keep=True))
    assert [row["key"] for row in rows] == ["still-there", 'a "present" \\ one é\n']
    rule = declared().secrets.rules["jwt_secret_previous"]
    assert value_problem(json.dumps(rows), rule) is None
    assert value_problem("[]", rule) is None
    for wrong in ("", "[{}]", '[{"key": "x"}]', '[{"key": "x", "until": 1}]', '[{"key": "xxxxxxxx", "until": 1764000000}, ]', "no JSON"):
        assert value_problem(wrong, rule) is not None, wrong


def test_the_line_that_a_person_adds_is_one_that_the_api_takes(root):
    """What docs/rotation.md says to write beside a key that is changed by hand."""
    rule = declared().secrets.rules["jwt_secret_previous"]
    text = (root / "docs/rotation.md").read_text()
    lines = [*re.findall(r"jwt_secret_previous: '(.*)'", text), *re.findall(r"JWT_SECRET_PREVIOUS='(.*?)'", text)]
    assert len(lines) == 2
    assert [line for line in lines if value_problem(line, rule) or not json.loads(line)] == []


def test_a_stolen_key_is_believed_no_more():
    assert plan(["jwt_secret"], keep_sessions=False).changes["inventory"]["jwt_secret_previous"] == "[]"
    assert rotation.keys_before(json.dumps([{"key": "still-there", "until": NOW + 5}]), "present", "7d", NOW, keep=False) == "[]"


# --- Where they stand


def test_each_goes_where_its_value_comes_from(tmp_path):
    kept = tmp_path / "kept.json"
    given = {
        "stack_generate_secrets": True,
        "stack_generated_secrets_file": str(kept),
        "stack_secrets": {"operator_password": "of-the-inventory-1"},
        "stack_env_local": {"JWT_SECRET": "of-env-local-2", "REDIS_URL": "redis://api:of%20a%20URL@redis:6379"},
    }
    names = ["operator_password", "jwt_secret", "redis_api_password", "postgres_password"]
    changes = plan(names, **given).changes
    assert {source: set(values) for source, values in changes.items()} == {
        "inventory": {"operator_password"},
        "env_local": {"JWT_SECRET", "JWT_SECRET_PREVIOUS", "REDIS_URL"},
        "generated": {"postgres_password"},
    }
    assert re.fullmatch(r"redis://api:[\w-]{43}@redis:6379", changes["env_local"]["REDIS_URL"])


def test_keys_from_before_that_stand_elsewhere_are_told_of():
    """They would be read in the place of those that the rotation writes."""
    given = {"stack_secrets": {"jwt_secret": "of-the-inventory-1"}, "stack_env_local": {"JWT_SECRET_PREVIOUS": "[]"}}
    found = plan(["jwt_secret"], **given)
    (problem,) = found.problems
    assert problem.startswith("jwt_secret_previous stands in .env.local, and jwt_secret in stack_secrets, so it would not be found. Move it to where")
    given = {"stack_secrets": {"jwt_secret": "of-the-inventory-1", "jwt_secret_previous": "[]"}}
    assert plan(["jwt_secret"], **given).problems == []


def test_an_address_keeps_all_but_its_password():
    assert rotation.changed_url("postgres://a%3Ab:old%40@postgres:5432/campaign_db", "n/w") == "postgres://a%3Ab:n%2Fw@postgres:5432/campaign_db"


def test_the_lines_of_an_environment_file_stay():
    text = "# A comment\n\nexport A='one'\r\n  B = two\nC=three"
    changed = rotation.changed_env(text, {"A": 'new "$1"', "B": "x", "D": "added"})
    assert parse_env(changed) == {"A": 'new "$1"', "B": "x", "C": "three", "D": "added"}
    assert changed.startswith("# A comment\n\n")
    assert parse_env(rotation.changed_env("", {"A": "1"})) == {"A": "1"}
    # As many editors save it.
    for text in ("A=1\nB=2", "A=1\nB=2\n"):
        for values in ({"A": "x"}, {"B": "x"}, {"A": "x", "B": "y"}, {"C": "x"}, {}):
            assert parse_env(rotation.changed_env(text, values)) == {"A": "1", "B": "2", **values}, (text, values)
    assert rotation.changed_env("A=1\n", {}) == "A=1\n"


VAULT = """---
# Of the platform
vault_stack_secrets:
  # The database
  postgres_password: "old"   # since March
  'jwt_secret': old
other: [1]
"""


def test_the_lines_of_a_vault_stay():
    changed = rotation.changed_yaml(VAULT, "vault_stack_secrets", {"postgres_password": 'n"w', "jwt_secret_previous": '[{"key": "a\\\\b", "until": 1}]'})
    assert yaml.safe_load(changed) == {
        "vault_stack_secrets": {"postgres_password": 'n"w', "jwt_secret": "old", "jwt_secret_previous": '[{"key": "a\\\\b", "until": 1}]'},
        "other": [1],
    }
    assert changed.splitlines()[:4] == VAULT.splitlines()[:4]


@pytest.mark.parametrize(
    "text",
    [
        "vault_stack_secrets: {postgres_password: old}\n",
        # Of two lines the last one counts.
        "vault_stack_secrets:\n  postgres_password: old\n  postgres_password: old\n",
        "other: 1\n",
        "vault_stack_secrets:\n  postgres_password: |\n    old\n  jwt_secret: x\n",
        "vault_stack_secrets: &a\n  postgres_password: old\n",
        "a: &a\n  x: 1\nvault_stack_secrets:\n  <<: *a\n  postgres_password: >-\n    folded\n    text\n",
        "vault_stack_secrets:\n  postgres_password: !vault |\n    $ANSIBLE_VAULT;1.1;AES256\n    00\n",
    ],
)
def test_a_vault_of_another_form_is_left_to_a_person(text):
    with pytest.raises(rotation.RotationError):
        rotation.changed_yaml(text, "vault_stack_secrets", {"postgres_password": "new"})


TAGGED = """---
vault_stack_secrets:
  jwt_secret: !unsafe 'a{{b}}#c'
  postgres_password: old
  redis_api_password: !vault |
    $ANSIBLE_VAULT;1.1;AES256
    00
"""


def test_a_vault_with_values_that_ansible_is_not_to_evaluate_is_changed():
    """docs/values.md tells people to write them."""
    name, previous = "vault_stack_secrets", '[{"key": "a{{b}}#c", "until": 1764700000}]'
    assert rotation.holds(TAGGED, [name], {"jwt_secret": "a{{b}}#c", "postgres_password": "old"}) == name
    changed = rotation.changed_yaml(TAGGED, name, {"jwt_secret": "new", "jwt_secret_previous": previous})
    assert rotation.read_yaml(changed)[name] == {**rotation.read_yaml(TAGGED)[name], "jwt_secret": "new", "jwt_secret_previous": previous}
    assert '  jwt_secret: "new"\n' in changed
    # What the old key has in it, Ansible is not to evaluate either.
    assert f"  jwt_secret_previous: !unsafe {json.dumps(previous)}\n" in changed
    assert changed.startswith(TAGGED.split("  jwt")[0])
    assert "  redis_api_password: !vault |\n    $ANSIBLE_VAULT;1.1;AES256\n    00\n" in changed


def test_the_deploy_of_the_same_run_reads_such_a_vault(tmp_path):
    path = tmp_path / "secrets.yml"
    path.write_text(rotation.changed_yaml(TAGGED, "vault_stack_secrets", {"jwt_secret": "new", "jwt_secret_previous": "{{"}))
    written = {"vault": str(path), "variable": "vault_stack_secrets", "vaulted": ["jwt_secret", "jwt_secret_previous"]}
    given = inputs._rotated({"__stack_rotated": written}, {"jwt_secret": "old", "x": "y"})
    assert given == {"jwt_secret": "new", "jwt_secret_previous": "{{", "x": "y"}


def test_a_value_that_is_encrypted_by_itself_is_told_with_its_remedy(tmp_path):
    path = tmp_path / "secrets.yml"
    path.write_text(TAGGED)
    given = declared(stack_secrets={**placeholders(secret_names()), "postgres_password": "old"})
    places = rotated_secrets.Places(given, {"vault": str(path), "variable": "vault_stack_secrets"}, {})
    with pytest.raises(inputs.RefusedError, match=r"^Nothing was changed. redis_api_password: .* \(!vault\).*`ansible-vault encrypt_string` in its place"):
        places.inventory({"redis_api_password": "new", "postgres_password": "new"})
    assert path.read_text() == TAGGED
    assert rotation.encrypted("a: [", ["a"], ["x"]) == rotation.encrypted("- 1\n", ["a"], ["x"]) == []


def test_a_mapping_is_known_by_what_it_holds():
    assert rotation.holds(VAULT, ["x", "vault_stack_secrets"], {"postgres_password": "old"}) == "vault_stack_secrets"
    assert rotation.holds(VAULT, ["vault_stack_secrets"], {"postgres_password": "another"}) is None
    assert rotation.holds("- list\n", ["vault_stack_secrets"], {}) is None
    assert rotation.holds("a: [", ["a"], {}) is None


def test_what_was_generated_is_replaced_and_the_rest_stays(tmp_path):
    path = str(tmp_path / "kept.json")
    first = generated.generated_secrets(["one", "two"], path, persist=True)
    generated.replace(path, {"one": "new", "extra": "[]"})
    assert generated.generated_secrets(["one", "two"], path, persist=True, optional=["extra", "absent"]) == {"one": "new", "two": first["two"], "extra": "[]"}
    assert (tmp_path / "kept.json").stat().st_mode & 0o777 == 0o600


def test_the_secret_of_aws_keeps_its_other_names():
    assert json.loads(aws.changed('{"a": "1", "b": 2}', {"a": "new"}) or "") == {"a": "new", "b": 2}
    assert aws.changed("[]", {"a": "new"}) is None
    assert aws.changed(None, {"a": "new"}) is None
    assert "secretsmanager:PutSecretValue" in aws.explain_writing("AccessDeniedException")
    assert "throttled" in aws.explain_writing("ThrottlingException")


def test_what_a_killed_run_left_beside_a_file_is_ignored_by_git_and_removed(tmp_path, root):
    path = tmp_path / ".env.local"
    path.write_text("A=1\n")
    path.chmod(0o640)
    killed = rotated_secrets.Writing(str(path), "A=2\n")
    name = os.path.basename(killed.temporary)
    for known in (name, "inventories/prod/group_vars/campaign/vault.yml.new-abcd1234"):
        assert subprocess.run(["git", "check-ignore", "-q", known], cwd=root, check=False).returncode == 0, known
    # One that is at work stays.
    rotated_secrets.Writing(str(path), "A=3\n")()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".env.local", name]
    past = os.stat(killed.temporary).st_mtime - 601
    os.utime(killed.temporary, (past, past))
    rotated_secrets.Writing(str(path), "A=4\n")()
    assert [entry.name for entry in tmp_path.iterdir()] == [".env.local"]
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("A=4\n", 0o640)


class Client:
    """Stands in for the SDK's client, of which a write ends with an error."""

    def __init__(self, error):
        self.error = error

    def put_secret_value(self, **_arguments):
        raise self.error


class ReadTimeoutError(Exception):
    """Of the SDK, where no answer came."""


class ClientError(Exception):
    """Of the SDK, with the answer of AWS."""

    def __init__(self, code, status):
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("error", "known"), [(ClientError("AccessDeniedException", 400), True), (ClientError("InternalServiceError", 500), False), (ReadTimeoutError(), False)]
)
def test_an_answer_that_is_lost_is_not_told_as_nothing_changed(monkeypatch, error, known):
    monkeypatch.setattr(inputs, "_aws", lambda *_given: lambda *_place: ('{"jwt_secret": "old"}', Client(error)))
    action = object.__new__(rotated_secrets.ActionModule)
    action._templar = action._loader = None
    with pytest.raises(inputs.RefusedError) as told:
        action._to_aws(None, {}, ("x", "eu-central-1"), {"jwt_secret": "new"})
    begin = "Nothing was changed. AWS" if known else "It is not known whether the new values were written. Deploy, or rotate again. AWS"
    assert str(told.value).startswith(begin)


def test_the_deploy_of_the_same_run_reads_the_version_that_was_written(monkeypatch):
    """Which version is the current one, AWS may not know everywhere at once, nor that there is the new one."""
    client = SimpleNamespace(put_secret_value=lambda **_arguments: {"VersionId": "v2"})
    monkeypatch.setattr(inputs, "_aws", lambda *_given: lambda *_place: ('{"jwt_secret": "old"}', client))
    action, places = object.__new__(rotated_secrets.ActionModule), SimpleNamespace(vault={})
    action._templar = action._loader = None
    action._to_aws(places, {}, ("x", "eu-central-1"), {"jwt_secret": "new"})
    assert places.vault == {"aws_version": "v2"}

    asked, late = [], [inputs.AbsentError("there is none (ResourceNotFoundException)")] * 2

    def read(_secret_id, _region, version):
        asked.append(version)
        if late:
            raise late.pop()
        return '{"jwt_secret": "new"}', client

    monkeypatch.setattr(inputs, "_aws", lambda *_given: read)
    monkeypatch.setattr(inputs.time, "sleep", lambda _seconds: None)
    variables = {"__stack_rotated": places.vault}
    assert inputs._reader(None, None, variables)("x", "eu-central-1").secrets == {"jwt_secret": "new"}
    assert asked == ["v2"] * 3
    # It ends, and so does what fails in another way.
    monkeypatch.setattr(inputs, "VERSION_SECONDS", 0)
    late[:] = [inputs.AwsError("denied"), inputs.AbsentError("there is none (ResourceNotFoundException)")]
    told = [inputs._reader(None, None, variables)("x", "eu-central-1").problems for _ in range(2)]
    assert told == [["the version v2, which this run has written, cannot be read yet. Deploy in some minutes."], ["denied"]]


class Context:
    """Stands in for the vault passwords of a run."""

    secrets = (("prod", VaultSecret(b"one")), ("other", VaultSecret(b"two")))

    @classmethod
    def current(cls, optional=False):
        assert optional
        return cls


@pytest.mark.parametrize("label", [None, "prod"])
def test_a_vault_is_encrypted_as_it_was(tmp_path, monkeypatch, label):
    monkeypatch.setattr(inputs, "VaultSecretsContext", Context)
    path = tmp_path / "vault.yml"
    path.write_bytes(VaultLib(list(Context.secrets)).encrypt(VAULT, secret=Context.secrets[0][1], vault_id=label))
    text, encrypt = inputs.vault_text(str(path))
    assert text == VAULT
    again = encrypt("changed: 1\n")
    assert again.split("\n")[0] == path.read_text().split("\n")[0]
    assert VaultLib([Context.secrets[0]]).decrypt(again) == b"changed: 1\n"
    path.write_text(again.replace("6", "7"))
    with pytest.raises(inputs.RefusedError, match="cannot be decrypted"):
        inputs.vault_text(str(path))


def test_a_file_in_clear_stays_in_clear(tmp_path):
    path = tmp_path / "secrets.yml"
    path.write_text(VAULT)
    text, encrypt = inputs.vault_text(str(path))
    assert (text, encrypt("x")) == (VAULT, "x")


def test_a_person_is_told_names_and_places_and_no_value():
    found = plan(["jwt_secret"])
    text = "\n".join(rotation.told(found, {"inventory": "/x/vault.yml; commit it"}))
    assert text == "New values: jwt_secret.\nThey stand in /x/vault.yml; commit it."
