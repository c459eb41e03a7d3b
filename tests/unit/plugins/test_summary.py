# SPDX-License-Identifier: GPL-3.0-or-later
"""The last lines of a deploy are true: where everything is, how to sign in, what was changed and what to type next."""

import dataclasses
from pathlib import Path

import pytest
from ansible_collections.campaign.platform.plugins.action.summary import place_of
from ansible_collections.campaign.platform.plugins.plugin_utils import summary
from program import SECRET, build, declare

ROOT = Path(__file__).resolve().parents[3]
PLACE = summary.Place(
    host="host.example.com",
    ssh="deployer@host.example.com",
    deploy="make deploy",
    rollback="make rollback",
    verify="make verify",
    down="make down",
    password={"generated": "`make password` shows the password.", "stack_secrets": "The password is operator_password of stack_secrets."},
)


def manifest(**given) -> dict:
    return build(given)["manifest"]


def told(manifest: dict, *results: dict, check_mode: bool = False, is_new: bool = True, plan: list | None = None, beside: list | None = None) -> str:
    staged = {"release": manifest["release"], "is_new": is_new, "manifest": manifest, "plan": plan or [], "beside": beside or []}
    staged |= {"first_jobs": manifest["first_jobs"], "jobs": manifest["jobs"]}
    return "\n".join(summary.lines(staged, results, PLACE, directory="/opt/campaign", check_mode=check_mode))


def action(container: str, status: str, what: str = "container") -> dict:
    return {"what": what, "id": container, "status": status}


@pytest.fixture(scope="module")
def local() -> dict:
    return manifest(stack_variant="local", stack_frontend_port=28080)


def test_a_local_stack_is_opened_by_the_addresses_that_it_publishes(local):
    lines = told(local).splitlines()
    assert lines[1] == "  frontend  http://localhost:28080"
    assert {"  api       http://localhost:3000", "  minio     http://localhost:9001", "  postgres  localhost:5432"} <= set(lines)
    assert "  ssh -L 28080:localhost:28080 -L 3000:localhost:3000 -L 9001:localhost:9001 deployer@host.example.com" in lines


def test_what_to_do_next_stands_last(local):
    text = told(local)
    assert text.startswith(f"Release {local['release']} runs and is verified.\n")
    _before, _heading, commands = text.partition("\nWhat to type next:\n")
    assert [line.split("     ")[0] for line in commands.splitlines()][:3] == [
        f"  {PLACE.verify}",
        "  cd /opt/campaign && docker compose logs --follow",
        f"  {PLACE.down}",
    ]


@pytest.mark.parametrize("port", ["127.0.0.1:8025:9025", {"target": 9025, "published": "8025", "host_ip": "127.0.0.1"}])
def test_a_port_is_http_where_a_check_asks_the_port_inside_by_http(port):
    declared, _renderer, _problems = declare({"stack_variant": "local"})
    check = {"service": "mailer", "kind": "http", "port": 9025}
    row = {"service": "mailer", "address": "127.0.0.1", "port": 8025, "scheme": "http"}
    assert summary.addresses(declared, {"mailer": {"ports": [port]}}, [check], {}) == [row]
    assert summary.addresses(declared, {"mailer": {"ports": [port]}}, [{**check, "kind": "tcp"}], {}) == [row | {"scheme": ""}]


def test_what_is_open_to_others_needs_no_tunnel():
    text = told(manifest(stack_variant="prod", stack_bind_address="0.0.0.0", stack_frontend_port=80))
    assert "  frontend  http://host.example.com\n" in text
    assert "ssh " not in text


def test_with_tls_the_name_of_the_certificate_is_the_address():
    text = told(manifest(stack_variant="prod", stack_bind_address="0.0.0.0", stack_tls_certificate="a certificate\n", stack_server_name="platform.example.com"))
    assert "  frontend  https://platform.example.com\n" in text
    assert "http://" not in text


def test_the_user_and_the_way_to_the_password_are_shown_and_the_password_is_not(local):
    text = told(local)
    assert "Sign in as operator. The password is operator_password of stack_secrets." in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({}, "stack_secrets"),
        ({"stack_env_local": {"OPERATOR_PASSWORD": "a-password-of-the-test-0123456789"}}, "env_local"),
    ],
)
def test_where_the_password_comes_from_is_in_the_manifest(given, source):
    assert manifest(stack_variant="local", **given)["sign_in"] == {"user": "operator", "password": source}


def test_a_container_is_named_once_with_what_was_done_to_it():
    results = [
        {"skipped": True},
        {
            "actions": [
                action("0123456789ab_campaign-api-1", "Recreate"),
                action("campaign-api-1", "Starting"),
                action("campaign-rules-engine-1", "Creating"),
                action("campaign-rules-engine-1", "Starting"),
                action("campaign-vite-1", "Starting"),
                action("campaign_backend-network", "Creating", "network"),
                action("campaign-api-migrate-1", "Creating"),
                action("other-api-1", "Recreate"),
            ]
        },
    ]
    assert summary.changes("campaign", results, ["api-migrate"]) == {"recreated": ["api"], "created": ["rules-engine"], "started": ["vite"]}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("Recreate", "recreated"),
        ("Creating", "created"),
        ("Removing", "removed"),
        ("Restarting", "restarted"),
        ("Starting", "started"),
        ("Stopping", "stopped"),
    ],
)
def test_what_was_done_has_the_words_of_docker(status, kind):
    assert summary.changes("campaign", [{"actions": [action("campaign-api-1", status)]}], []) == {kind: ["api"]}


def test_a_container_with_a_name_of_its_own_is_of_its_service():
    results = [{"actions": [action("shop", "Recreate")], "containers": [{"Name": "shop", "Service": "api"}]}]
    assert summary.changes("campaign", results, []) == {"recreated": ["api"]}


def test_a_run_that_changed_nothing_says_so(local):
    assert "Changed by this run: no container." in told(local, {"actions": []}, is_new=False)


def test_a_run_that_changed_something_says_what(local):
    results = {"actions": [action("campaign-api-1", "Recreate"), action("campaign-frontend-1", "Recreate"), action("campaign-vite-1", "Creating")]}
    assert "Changed by this run: api and frontend were recreated; vite was created." in told(local, results)


def test_what_was_replaced_without_a_gap_is_called_so(local):
    results = {"actions": [action("campaign-api-2", "Creating"), action("campaign-redis-1", "Recreate")]}
    text = told(local, results, beside=["api"])
    assert "Changed by this run: api was replaced without a gap; redis was recreated." in text


API = {"service": "api", "action": "recreate", "reasons": ["image api:1 -> api:2", "environment: LOG_LEVEL"], "forced": False, "beside": False}
WORKER = {"service": "rules-engine", "action": "start", "reasons": ["its container is exited"], "forced": False, "beside": False}
FRONTEND = {"service": "frontend", "action": "recreate", "reasons": ["labels: x"], "forced": False, "beside": False}


@pytest.mark.parametrize(
    ("is_new", "plan", "expected"),
    [
        (False, [], ["A deploy would change no container."]),
        (
            False,
            [API, WORKER],
            [
                "A deploy would change containers:",
                "  api           recreated: image api:1 -> api:2; environment: LOG_LEVEL",
                "  rules-engine  started: its container is exited",
            ],
        ),
        (
            False,
            [{**API, "beside": True}, FRONTEND, {**FRONTEND, "action": "start"}],
            [
                "A deploy would change containers:",
                "  api       replaced without a gap: image api:1 -> api:2; environment: LOG_LEVEL",
                "  frontend  recreated, port 3000 and port 28080 closed meanwhile: labels: x",
                "  frontend  started: labels: x",
            ],
        ),
        (
            True,
            [API],
            [
                "A deploy would take release {release} into use:",
                "  api  recreated: image api:1 -> api:2; environment: LOG_LEVEL",
                "  and run minio-volume, api-migrate, minio-bootstrap, postgres-bootstrap and redis-bootstrap",
            ],
        ),
    ],
)
def test_a_check_says_what_a_deploy_would_do_and_why(local, is_new, plan, expected):
    lines = told(local, check_mode=True, is_new=is_new, plan=plan).format(release=local["release"]).splitlines()
    expected = [line.format(release=local["release"]) for line in expected]
    assert lines == ["This was a check, and nothing was changed. " + expected[0], *expected[1:], "To deploy:", "  make deploy"]


def test_a_check_of_going_back_says_so(local):
    staged = {
        "release": local["release"],
        "is_new": True,
        "is_rollback": True,
        "manifest": local,
        "first_jobs": local["first_jobs"],
        "jobs": local["jobs"],
        "plan": [API],
    }
    lines = summary.lines(staged, [], PLACE, directory="/opt/campaign", check_mode=True)
    assert lines[0] == f"This was a check, and nothing was changed. Going back would take release {local['release']} into use:"
    assert lines[-2:] == ["To go back:", "  make rollback"]


def test_a_release_of_an_earlier_version_has_no_addresses(local):
    older = {key: value for key, value in local.items() if key not in ("addresses", "sign_in")}
    assert told(older).splitlines()[1].startswith("Changed by this run")


def test_without_a_file_of_generated_secrets_as_in_prod_the_way_to_the_password_is_told_all_the_same(tmp_path):
    place = place_of({"inventory_hostname": "host.example.com", "ansible_inventory_sources": [str(tmp_path)]}, is_local=False)
    assert place.password["stack_secrets"] == "The password is operator_password of stack_secrets."
    assert place.deploy == f"ansible-playbook -i {tmp_path} campaign.platform.site"


@pytest.mark.parametrize(("content", "asked"), [("$ANSIBLE_VAULT;1.1;AES256\n61\n", True), ("stack_secrets: {}\n", False)])
def test_a_command_asks_for_the_password_of_an_encrypted_file(tmp_path, content, asked):
    file = tmp_path / "group_vars/campaign/vault.yml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    place = place_of({"inventory_hostname": "host.example.com", "ansible_inventory_sources": [str(tmp_path)]}, is_local=False)
    assert all((" --ask-vault-pass campaign." in command) is asked for command in (place.deploy, place.rollback, place.verify, place.down))


@pytest.mark.parametrize(
    ("directory", "logs"),
    [("/opt/campaign", "make logs"), ("/opt/other", "make logs STACK=/opt/other")],
)
def test_with_the_inventory_of_the_checkout_make_runs_every_command(monkeypatch, directory, logs):
    monkeypatch.chdir(ROOT)
    known = {"inventory_hostname": "localhost", "ansible_inventory_sources": [str(ROOT / "inventories/local")]}
    place = place_of(known, is_local=True, directory=directory)
    assert (place.deploy, place.verify, place.down, place.rollback, place.logs) == ("make deploy", "make verify", "make down", "make rollback", logs)


def test_the_command_for_the_logs_is_the_one_of_the_place(local):
    staged = {"release": local["release"], "is_new": True, "manifest": local, "first_jobs": local["first_jobs"], "jobs": local["jobs"], "plan": []}
    lines = summary.lines(staged, [], dataclasses.replace(PLACE, logs="make logs"), directory="/opt/campaign", check_mode=False)
    assert "  make logs" in lines
    assert not any("docker compose" in line for line in lines)


def test_whoever_went_back_is_told_that_the_next_deploy_goes_forward_again(local):
    staged = {"release": local["release"], "is_new": True, "manifest": local, "first_jobs": local["first_jobs"], "jobs": local["jobs"], "plan": []}
    told_after = ["\n".join(summary.lines({**staged, **more}, [], PLACE, directory="/opt/campaign", check_mode=False)) for more in ({}, {"is_rollback": True})]
    assert ["The next deploy takes into use what the inventory says" in text for text in told_after] == [False, True]
