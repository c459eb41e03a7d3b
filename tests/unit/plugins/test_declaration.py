# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy declares: where each value comes from, which names are taken, and what is said of what is missing or wrong."""

import json
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.campaign.platform.plugins.plugin_utils import declaration, inputs
from ansible_collections.campaign.platform.plugins.plugin_utils.aws import Answer
from ansible_collections.campaign.platform.plugins.plugin_utils.declaration import known_secrets, url_credentials
from program import build, declare, problems_of, secret_names, secret_texts, tables, trusted

# One value for each secret that is not anybody's else.
GIVEN = {name: f"{name.replace('_', '-')}-that-is-given" for name in secret_names()}
URL = "postgres://me:own%20password@postgres:5432/campaign_db"
SERVICE = {"base": {"services": {"mailer": {"image": "registry.example.com/mailer:1", "user": "10005:10005"}}}}
BASE = {"stack_secrets": GIVEN}


def added(**keys):
    return {"stack_services": {"mailer": SERVICE | keys}}


@pytest.fixture
def aws(monkeypatch):
    """Let AWS answer with these secrets; returns what it was asked for."""
    asked = []

    def start(answer: Answer) -> list[tuple[str, str]]:
        monkeypatch.setattr(inputs, "_reader", lambda *_context: lambda secret_id, region: asked.append((secret_id, region)) or answer)
        return asked

    return start


AWS = {"stack_aws_secret_id": "campaign/x", "stack_aws_region": "eu-central-1"}


@pytest.mark.parametrize(
    ("places", "value"),
    [
        (["generated"], "value-generated"),
        (["generated", "aws"], "value-of-aws"),
        (["generated", "aws", "vault"], "value-of-the-vault"),
        (["generated", "aws", "vault", "env_local"], "value-of-env-local"),
        (["generated", "env_local"], "value-of-env-local"),
        (["generated", "vault"], "value-of-the-vault"),
        (["aws", "env_local"], "value-of-env-local"),
        (["aws", "vault"], "value-of-the-vault"),
    ],
)
def test_the_first_place_that_has_a_secret_wins(aws, tmp_path, places, value):
    kept = tmp_path / "generated.json"
    kept.write_text(json.dumps({name: f"{name}-kept" for name in GIVEN} | {"jwt_secret": "value-generated"}))
    aws(Answer({"jwt_secret": "value-of-aws"}))
    others = {name: text for name, text in GIVEN.items() if name != "jwt_secret"}
    given = {"stack_secrets": others if "generated" not in places else {}}
    given |= {"stack_generate_secrets": True, "stack_generated_secrets_file": str(kept)} if "generated" in places else {}
    given |= AWS if "aws" in places else {}
    given["stack_secrets"] = given["stack_secrets"] | ({"jwt_secret": "value-of-the-vault"} if "vault" in places else {})
    given |= {"stack_env_local": {"JWT_SECRET": "value-of-env-local"}} if "env_local" in places else {}
    declared, _renderer, problems = declare(given)
    assert problems == []
    assert declared.secrets.values["jwt_secret"] == value


def test_the_credentials_of_an_address_win_over_all_other_places(aws):
    aws(Answer({"postgres_api_password": "password-of-aws"}))
    declared, _renderer, problems = declare(BASE | AWS | {"stack_env_local": {"DATABASE_URL": URL}})
    assert problems == []
    assert declared.secrets.values["postgres_api_user"] == "me"
    assert declared.secrets.values["postgres_api_password"] == "own password"


def test_a_name_that_nobody_chooses_has_its_default():
    declared, _renderer, _problems = declare(BASE)
    assert (declared.secrets.values["postgres_api_user"], declared.secrets.values["redis_api_user"]) == ("campaign_api_login", "api")


def test_a_generated_secret_is_kept_and_in_check_mode_is_not(tmp_path):
    kept = tmp_path / "generated.json"
    given = {"stack_generate_secrets": True, "stack_generated_secrets_file": str(kept)}
    declared, _renderer, problems = declare(given)
    assert problems == []
    assert set(declared.secrets.needed) == set(GIVEN)
    assert all(len(declared.secrets.values[name]) == 43 for name in GIVEN)
    # Validation, for which nothing may be written.
    assert list(tmp_path.iterdir()) == []
    written = inputs.generated_secrets(GIVEN, str(kept), persist=True)
    declared, _renderer, _problems = declare(given)
    assert {name: declared.secrets.values[name] for name in GIVEN} == written
    assert kept.stat().st_mode & 0o777 == 0o600


def test_what_was_generated_stays_when_a_secret_is_added(tmp_path):
    kept = str(tmp_path / "own" / "generated.json")
    first = inputs.generated_secrets(["one"], kept, persist=True)
    both = inputs.generated_secrets(["one", "two"], kept, persist=True)
    assert both["one"] == first["one"] != both["two"]
    assert inputs.generated_secrets(["two"], kept, persist=False) == {"two": both["two"]}


def test_the_key_of_the_sign_ins_is_a_long_one():
    secrets = PROD["stack_secrets"] | {"jwt_secret": "Zq3-vT8_mK1pW5xBr7Yd2Hn6Lc9Sg4J"}
    assert problems_of(PROD | {"stack_secrets": secrets})[0].startswith("stack_secrets: jwt_secret must be at least 32 characters in prod, but it has 31.")


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": ""}'])
def test_a_file_of_generated_secrets_that_is_broken_is_reported(tmp_path, content):
    kept = tmp_path / "generated.json"
    kept.write_text(content)
    (problem,) = problems_of({"stack_generate_secrets": True, "stack_generated_secrets_file": str(kept)})
    assert problem.startswith(str(kept))
    assert "from a copy" in problem
    assert kept.read_text() == content


@pytest.mark.parametrize("given", [{"stack_aws_secret_id": "campaign/x"}, {"stack_aws_region": "eu-central-1"}, {}])
def test_aws_is_asked_only_with_a_secret_and_a_region(aws, given):
    asked = aws(Answer())
    declare(BASE | given)
    assert asked == []
    declare(BASE | AWS)
    assert asked == [("campaign/x", "eu-central-1")]


def test_what_aws_cannot_say_is_one_problem(aws):
    aws(Answer(problems=["reading it was denied."]))
    assert problems_of(AWS) == ["AWS Secrets Manager (stack_aws_secret_id): reading it was denied."]


@pytest.mark.parametrize(("variant", "remedy"), [("local", ", or set stack_generate_secrets."), ("prod", ". The playbook init_secrets writes a new vault.")])
def test_every_missing_secret_is_reported_by_name(variant, remedy):
    assert problems_of({"stack_variant": variant}) == [f"stack_secrets.{name} is missing. Give it in the vault or in AWS{remedy}" for name in secret_names()]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({}, "info"),
        ({"stack_log_level": "warn"}, "warn"),
        ({"stack_log_level": "warn", "stack_env_local": {"LOG_LEVEL": "debug"}}, "debug"),
        ({"stack_env_local": {"LOG_LEVEL": "debug"}}, "debug"),
    ],
)
def test_the_first_place_that_has_a_setting_wins(given, value):
    declared, _renderer, problems = declare(BASE | given)
    assert problems == []
    assert declared.settings["LOG_LEVEL"] == value


@pytest.mark.parametrize(
    ("variant", "given", "values"),
    [
        ("local", {}, {"NODE_ENV": "development", "S3_ENDPOINT": "http://minio:9000", "VITE_API_URL": "", "API_PORT": "3000"}),
        ("prod", {}, {"NODE_ENV": "production"}),
        ("local", {"stack_s3_external": {"endpoint": "https://s3.example.com"}}, {"S3_ENDPOINT": "https://s3.example.com"}),
    ],
)
def test_a_setting_s_default_may_depend_on_variant_and_servers(variant, given, values):
    declared, _renderer, _problems = declare({"stack_variant": variant} | given)
    assert {name: declared.settings[name] for name in values} == values


MAILER_FROM = {"pattern": "[^@ ]+@[^@ ]+", "hint": "an e-mail address"}


@pytest.mark.parametrize(
    ("row", "env_local", "value", "problem"),
    [
        ({"default": "a@b"}, {}, "a@b", None),
        ({"default": "a@b"}, {"MAILER_FROM": "c@d"}, "c@d", None),
        ({}, {"MAILER_FROM": "c@d"}, "c@d", None),
        ({"default": "{{ setting.LOG_LEVEL }}@b"}, {}, "info@b", None),
        ({"default": {"local": "l@b", "prod": "p@b"}}, {}, "l@b", None),
        ({}, {}, None, "MAILER_FROM is missing. Set it in .env.local, or give it a default in stack_services.mailer.settings.MAILER_FROM."),
        ({"default": None}, {}, None, "MAILER_FROM is missing."),
        ({"default": "nobody"}, {}, None, "stack_services.mailer.settings: MAILER_FROM must be an e-mail address, but it is 6 characters of letters."),
        ({"default": "a@b"}, {"MAILER_FROM": "nobody"}, None, ".env.local: MAILER_FROM must be an e-mail address, but it is 6 characters of letters."),
        ({"default": "{{ nowhere }}"}, {}, None, "stack_services.mailer.settings.MAILER_FROM.default cannot be used: it refers to nowhere"),
    ],
)
def test_a_setting_of_an_inventory_s_service(row, env_local, value, problem):
    given = BASE | added(settings={"MAILER_FROM": MAILER_FROM | row}) | {"stack_env_local": env_local}
    if problem:
        (told,) = problems_of(given)
        assert told.startswith(problem)
    else:
        assert problems_of(given) == []
        assert declare(given)[0].settings["MAILER_FROM"] == value


@pytest.mark.parametrize(("name", "owner"), [("LOG_LEVEL", "the stack"), ("API_PORT", "frontend")])
def test_a_setting_has_one_owner(name, owner):
    given = BASE | added(settings={name: MAILER_FROM | {"default": "a@b"}})
    assert f"stack_services.mailer.settings.{name} is a setting of {owner} already. Choose another name." in problems_of(given)


def test_a_setting_of_the_environment_that_is_not_known_is_reported():
    (problem,) = problems_of(BASE | {"stack_env_local": {"LOG_LEVLE": "info"}})
    assert problem.startswith(".env.local: LOG_LEVLE is not a known setting. Did you mean LOG_LEVEL?")
    (problem,) = problems_of(BASE | added(settings={"MAILER_FROM": MAILER_FROM | {"default": "a@b"}}) | {"stack_env_local": {"MAILER_FORM": "a@b"}})
    assert "Did you mean MAILER_FROM?" in problem


LOGIN = {"postgres": {"mailer": {}}}
TAKEN = [
    ({}, "stack_postgres_user", "campaign_api_login"),
    ({}, "stack_postgres_user", "campaign_scheduler"),
    ({}, "stack_postgres_user", "campaign_rules_engine_login"),
    ({}, "stack_postgres_user", "public"),
    ({}, "stack_postgres_user", "pg_monitor"),
    (added(logins=LOGIN), "stack_postgres_user", "campaign_mailer"),
    (added(logins=LOGIN), "stack_postgres_user", "campaign_mailer_login"),
    (added(logins={"postgres": {"mailer": {"user": "postman", "role": "post"}}}), "stack_postgres_user", "postman"),
    (added(logins={"postgres": {"mailer": {"user": "postman", "role": "post"}}}), "stack_postgres_user", "post"),
]


@pytest.mark.parametrize(("given", "variable", "name"), TAKEN)
def test_a_name_of_a_login_is_taken(given, variable, name):
    secrets = {"stack_secrets": {**GIVEN, "postgres_mailer_password": "password of the mailer"}}
    assert [problem for problem in problems_of(secrets | given | {variable: name}) if problem.startswith(f"{variable} must be")] != []


@pytest.mark.parametrize("name", ["campaign_mailer", "campaign_mailer_login"])
def test_a_name_of_a_login_that_is_not_there_is_free(name):
    assert problems_of(BASE | {"stack_postgres_user": name}) == []


@pytest.mark.parametrize(
    ("user", "given", "free"),
    [
        ("campaign_api_login", {}, True),
        ("somebody", {}, True),
        ("campaign_scheduler_login", {}, False),
        ("campaign_mailer_login", {}, True),
        ("campaign_mailer_login", added(logins=LOGIN), False),
    ],
)
def test_an_address_names_no_login_of_somebody_else(user, given, free):
    secrets = {"stack_secrets": {**GIVEN, "postgres_mailer_password": "password of the mailer"} if given else GIVEN}
    problems = problems_of(secrets | given | {"stack_env_local": {"DATABASE_URL": f"postgres://{user}:own-password@postgres:5432/campaign_db"}})
    assert (problems == []) == free, problems
    assert "own-password" not in "".join(problems)


@pytest.mark.parametrize(
    ("user", "free"), [("api", True), ("own", True), ("scheduler", False), ("Scheduler", False), ("default", False), ("health", False), ("rules_engine", False)]
)
def test_a_user_of_redis_is_taken(user, free):
    problems = problems_of(BASE | {"stack_env_local": {"REDIS_URL": f"redis://{user}:own-password@redis:6379"}})
    assert (problems == []) == free, problems


def test_a_service_of_the_inventory_is_not_outside_the_stack():
    given = BASE | added() | {"stack_redis_external": {"host": "mailer"}}
    assert [problem for problem in problems_of(given) if problem.startswith("stack_redis_external: host must be")] != []


def test_the_superuser_s_login_may_be_the_api_s_with_its_password():
    url = {"DATABASE_URL": f"postgres://campaign_user:{GIVEN['postgres_password']}@postgres:5432/campaign_db"}
    assert problems_of(BASE | {"stack_env_local": url}) == []
    (problem,) = problems_of(BASE | {"stack_env_local": {"DATABASE_URL": "postgres://campaign_user:another-one@postgres:5432/campaign_db"}})
    assert problem == ".env.local: DATABASE_URL signs in as POSTGRES_USER, so its password must be POSTGRES_PASSWORD."
    (problem,) = problems_of(BASE | {"stack_env_local": {"DATABASE_URL": URL.replace("campaign_db", "other")}})
    assert problem == ".env.local: DATABASE_URL names another database than POSTGRES_DB. Make them the same."


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ({"mailer": {"postgres": "mailr"}}, "stack_services.mailer.needs.mailer.postgres: there is no login mailr at postgres."),
        ({"mailer": {"redis": "schedular"}}, "stack_services.mailer.needs.mailer.redis: there is no login schedular at redis. Did you mean scheduler?"),
        ({"mailr": {"redis": "api"}}, "stack_services.mailer.needs.mailr: the entry has no such container. Did you mean mailer?"),
        ({"mailer": {"redis": "api"}}, None),
    ],
)
def test_a_need_names_a_container_and_a_login(needs, told):
    problems = problems_of(BASE | added(needs=needs))
    assert len(problems) == (told is not None)
    assert told is None or problems[0].startswith(told)


@pytest.mark.parametrize(
    ("gone", "who", "variable"),
    [
        ("redis", {"api", "rules-engine", "scheduler"}, "stack_redis_external"),
        ("minio", {"api"}, "stack_s3_external"),
        ("postgres", {"api", "api-migrate", "rules-engine", "scheduler"}, "stack_postgres_external"),
    ],
)
def test_a_server_that_is_taken_out_is_missed(gone, who, variable):
    problems = problems_of(BASE | {"stack_services": {gone: None}})
    assert {problem.partition(" needs it")[0].rpartition(" ")[2] for problem in problems if f"{gone} is taken out" in problem} == who
    assert all(variable in problem for problem in problems if "is taken out" in problem)


REPLACED = [
    ("stack_postgres_external", {"host": "db.example.com"}, "POSTGRES_PORT", "5433"),
    ("stack_postgres_external", {"host": "db.example.com"}, "DATABASE_URL", "canary"),
    ("stack_redis_external", {"host": "cache.example.com"}, "REDIS_PORT", "canary"),
    ("stack_redis_external", {"host": "cache.example.com"}, "REDIS_URL", "redis://redis:6379"),
    ("stack_s3_external", {"endpoint": "https://s3.example.com"}, "S3_ENDPOINT", "canary"),
    ("stack_s3_external", {"endpoint": "https://s3.example.com"}, "MINIO_PORT", "9000"),
    ("stack_s3_external", {"endpoint": "https://s3.example.com"}, "MINIO_CONSOLE_PORT", "9000"),
    ("stack_s3_external", {"endpoint": "https://s3.example.com"}, "MINIO_ROOT_USER", "somebody"),
    ("stack_s3_external", {"endpoint": "https://s3.example.com"}, "MINIO_ROOT_PASSWORD", "password of root"),
]


@pytest.mark.parametrize(("variable", "server", "name", "value"), REPLACED)
def test_what_is_about_a_server_that_is_replaced_is_refused(variable, server, name, value):
    problems = problems_of(BASE | {variable: server, "stack_env_local": {name: value}})
    assert f".env.local: {name} is about a service of the stack that is replaced or taken out. Remove the line." in problems
    assert "canary" not in "".join(problems)
    # Beside the stack's own server it is a setting like others, right or wrong.
    assert "is replaced" not in "".join(problems_of(BASE | {"stack_env_local": {name: value}}))


def test_what_is_about_a_service_that_is_taken_out_is_refused():
    taken_out = {"stack_services": {"scheduler": None}}
    (problem,) = problems_of(BASE | taken_out | {"stack_env_local": {"SCHEDULER_TICK_SECONDS": "5"}})
    assert problem.startswith(".env.local: SCHEDULER_TICK_SECONDS is about a service of the stack that is replaced or taken out.")


@pytest.mark.parametrize("name", ["api", "frontend", "scheduler", "rules-engine", "page"])
def test_what_only_a_service_that_is_taken_out_had_is_not_asked_for(name):
    own = known_secrets(tables(), {name: tables().services[name]}).needed
    rest = known_secrets(tables(), {key: entry for key, entry in tables().services.items() if key != name}).needed
    gone = set(own) - set(rest)
    services = {"stack_services": {name: None}}
    assert problems_of({"stack_secrets": {key: value for key, value in GIVEN.items() if key not in gone}} | services) == []
    assert {"scheduler": {"postgres_scheduler_password", "redis_scheduler_password"}}.get(name, gone) == gone


def test_an_entry_with_a_condition_is_there_when_it_holds():
    for condition, there in (("{{ variant == 'local' }}", True), ("{{ variant == 'prod' }}", False), ("{{ tls }}", False), (False, False), (True, True)):
        declared, _renderer, problems = declare(BASE | added(when=condition))
        assert problems == []
        assert ("mailer" in declared.catalogue) == there
    assert problems_of(BASE | added(when="{{ nowhere }}")) == [
        "stack_services.mailer.when cannot be used: it refers to nowhere, which is not defined. Define that, or correct the name."
    ]


def test_an_entry_that_a_variable_replaces_is_gone_with_it():
    given = BASE | added(replaced_by="stack_redis_external")
    assert "mailer" in declare(given)[0].catalogue
    assert "mailer" not in declare(given | {"stack_redis_external": {"host": "cache.example.com"}})[0].catalogue


FETCHED = {"stack_aws_runtime_secret_ids": {"api": "campaign/api"}, "stack_aws_region": "eu-central-1"}


def test_what_only_a_service_reads_that_fetches_from_aws_is_not_asked_for():
    unneeded = {"jwt_secret", "operator_password"}
    left = {name: value for name, value in GIVEN.items() if name not in unneeded}
    assert problems_of({"stack_secrets": left} | FETCHED) == []
    # The jobs still create its logins, and so need their passwords.
    for name in left:
        (problem,) = problems_of({"stack_secrets": {key: value for key, value in left.items() if key != name}} | FETCHED)
        assert problem.startswith(f"stack_secrets.{name} is missing.")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"apl": "x"}, "stack_aws_runtime_secret_ids: apl is not a known setting. Did you mean api?"),
        ({"api-migrate": "x"}, "stack_aws_runtime_secret_ids: api-migrate is not a known setting."),
        ({"frontend": "x"}, "stack_aws_runtime_secret_ids: frontend is not a known setting."),
        ({"api": "a b"}, "stack_aws_runtime_secret_ids: api must be the name or ARN of a secret"),
    ],
)
def test_services_that_sign_in_may_fetch_from_aws_and_no_others(given, told):
    (problem,) = problems_of(BASE | {"stack_aws_runtime_secret_ids": given, "stack_aws_region": "eu-central-1"})
    assert problem.startswith(told)


def test_a_service_of_the_inventory_may_fetch_from_aws():
    given = BASE | added(needs={"mailer": {"redis": "api"}}) | {"stack_aws_runtime_secret_ids": {"mailer": "x"}, "stack_aws_region": "eu-central-1"}
    assert problems_of(given) == []


LOG = {"postgres_wal_password": "given-and-not-guessed"}


def test_what_nobody_asks_for_needs_no_secret_and_what_somebody_does_needs_one():
    assert problems_of(BASE) == []
    (problem,) = problems_of(BASE | {"stack_point_in_time": True})
    assert problem.startswith("stack_secrets.postgres_wal_password is missing.")
    assert problems_of(BASE | {"stack_point_in_time": True, "stack_secrets": {**BASE["stack_secrets"], **LOG}}) == []


# Rules between variables, each with what breaks it and nothing else.
OWN = {"stack_generate_secrets": True, "stack_generated_secrets_file": "/nowhere/generated.json"}
PROD = {"stack_variant": "prod", "stack_secrets": {name: f"{name[::-1]}-that-is-given-and-long" for name in GIVEN}}
REQUIREMENTS = [
    (PROD | OWN, "stack_generate_secrets is for local only."),
    (BASE | {"stack_generate_secrets": True}, "stack_generate_secrets needs stack_generated_secrets_file"),
    (PROD | {"stack_hot_reload": True}, "stack_hot_reload is for local only."),
    (BASE | {"stack_hot_reload": True, "stack_app_source": "/nowhere"}, "stack_app_source has no directory packages."),
    (PROD | {"stack_env_local": {"LOG_LEVEL": "info"}}, "stack_env_local is for local only."),
    (
        BASE | {"stack_point_in_time": True, "stack_postgres_external": {"host": "db.example.com"}, "stack_secrets": {**BASE["stack_secrets"], **LOG}},
        "stack_point_in_time is for the stack's own PostgreSQL, and stack_postgres_external names another one",
    ),
    (BASE | {"stack_aws_secret_id": "x"}, "stack_aws_region is missing, but a secret of AWS is named."),
    (BASE | {"stack_aws_runtime_secret_ids": {"api": "x"}}, "stack_aws_region is missing, but a secret of AWS is named."),
    (BASE | {"stack_aws_region": "eu-central-1"}, "stack_aws_region is set, but no secret of AWS is named."),
    (BASE | {"stack_aws_endpoint_url": "http://a"}, "stack_aws_endpoint_url is for services that fetch from AWS."),
]


@pytest.mark.parametrize(("given", "told"), REQUIREMENTS)
def test_a_rule_between_variables_is_reported(given, told):
    (problem,) = problems_of(given)
    assert problem.startswith(told)


@pytest.mark.parametrize("given", [BASE, PROD, OWN, BASE | {"stack_hot_reload": True}, BASE | FETCHED, BASE | FETCHED | {"stack_aws_endpoint_url": "http://a"}])
def test_what_keeps_all_rules_between_variables_is_accepted(given):
    assert problems_of(given) == []


def test_rules_between_variables_are_asked_only_of_values_that_are_right():
    problems = problems_of(PROD | {"stack_hot_reload": True, "stack_secrets": {}})
    assert [problem for problem in problems if "is missing" not in problem] == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stack_services": "text"}, "stack_services must be a mapping of names to entries."),
        ({"stack_services": ["mailer"]}, "stack_services must be a mapping of names to entries."),
        ({"stack_services": "{{ nowhere }}"}, "stack_services cannot be used: it refers to nowhere, which is not defined."),
        *[
            (
                {"mine": {"mailer": {"base": {"services": {"mailer": {"image": text}}}}}, "stack_services": "{{ mine | combine({}) }}"},
                f"stack_services cannot be used: all of it is one expression, which is rendered before {name} is known. Write a mapping of names to entries.",
            )
            for name, text in [("image", "{{ image.node }}"), ("setting", "x:{{ setting.LOG_LEVEL }}"), ("node_get", "{{ node_get }}")]
        ],
        ({"stack_services": {"mailer": {"bse": {}}}}, "stack_services.mailer.bse is not known."),
        ({"stack_services": {"mailer": {"base": {"services": {"api": {"image": "x"}}}}}}, "stack_services.mailer: the container api belongs to the entry api."),
    ],
)
def test_the_form_of_the_inventory_s_entries_comes_first(given, told):
    problems = problems_of(BASE | given)
    assert problems[0].startswith(told)
    assert [problem for problem in problems if not problem.startswith("stack_services")] == []


def test_a_vault_may_keep_the_secrets_of_a_service_that_is_taken_out():
    assert problems_of(BASE | {"stack_services": {"scheduler": None}}) == []
    assert problems_of(BASE | {"stack_s3_external": {"endpoint": "https://s3.example.com"}}) == []
    (problem,) = problems_of({"stack_secrets": GIVEN | {"jwt_secrt": "of nobody at all"}})
    assert problem == "stack_secrets: jwt_secrt is not a known secret. Did you mean jwt_secret?"


def test_the_inventory_s_entries_may_be_an_expression():
    given = {"stack_services": "{{ own_services }}", "own_services": {"scheduler": None}}
    declared, _renderer, problems = declare(BASE | given)
    assert problems == []
    assert "scheduler" not in declared.catalogue


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"strong": 32}, ["must be at least 32 characters"]),
        ({"pattern": "[a-z]+", "hint": "letters"}, ["must be letters", "must be at least 16 characters"]),
        ({}, ["must be at least 16 characters"]),
    ],
)
def test_a_secret_of_an_entry_has_the_rules_of_all_others_unless_it_says_otherwise(given, expected):
    given = added(secrets={"mailer": {"mailer_token": given}})
    assert secret_names(given["stack_services"])[-1] == "mailer_token"
    problems = problems_of(PROD | {"stack_secrets": {**PROD["stack_secrets"], "mailer_token": "Sh0rt-one"}} | given)
    assert len(problems) == len(expected)
    assert all(problem.startswith(f"stack_secrets: mailer_token {told}") for problem, told in zip(problems, expected, strict=True))
    (told,) = problems_of(PROD | given)
    assert told.startswith("stack_secrets.mailer_token is missing.")


def test_a_secret_of_an_entry_may_stand_in_the_environment():
    texts = secret_texts(build({"stack_variant": "local", **added(secrets={"mailer": ["mailer_token"]}), "stack_env_local": {"MAILER_TOKEN": "of-env-local"}}))
    assert texts["mailer_mailer_token"] == "of-env-local"


def test_secrets_of_the_inventory_s_logins_and_texts_are_known():
    logins = {
        "postgres": {"mailer": {}, "mail-reader": {"password": "reader_secret"}},
        "redis": {"mailer": {"acl": "x"}},
        "s3": {"mailer": {"policy": {"Statement": []}}},
    }
    given = added(logins=logins, secrets={"mailer": {"own": "{{ secret.one }} {{ secret['two'] }}", "three": None, "text": {"content": "{{ secret.four }}"}}})
    assert set(secret_names(given["stack_services"])) - set(GIVEN) == {
        "postgres_mailer_password",
        "reader_secret",
        "redis_mailer_password",
        "s3_mailer_access_key",
        "s3_mailer_secret_key",
        "one",
        "two",
        "three",
        "four",
    }


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        # Each kind of server has a rule of its own for passwords.
        ("postgres_mailer_password", "md5" + "0" * 32, "not a hash"),
        ("postgres_mailer_password", "password\u00a0password", "special blanks"),
        ("redis_mailer_password", "short", "at least 8 characters"),
        ("s3_mailer_access_key", "with blank", "without blanks"),
        ("s3_mailer_secret_key", "two lines\nof it", "on one line"),
    ],
)
def test_the_password_of_a_login_is_one_that_its_server_takes(name, value, problem):
    logins = {"postgres": {"mailer": {}}, "redis": {"mailer": {"acl": "x"}}, "s3": {"mailer": {"policy": {"Statement": []}}}}
    given = added(logins=logins)
    secrets = {key: f"{key}-given" for key in secret_names(given["stack_services"])}
    (told,) = problems_of(given | {"stack_secrets": {**secrets, name: value}})
    assert told.startswith(f"stack_secrets: {name} must be")
    assert problem in told
    assert value not in told


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"DATABASE_URL": "postgres://me:a%40b@postgres:5432/x"}, {"postgres_api_user": "me", "postgres_api_password": "a@b"}),
        ({"REDIS_URL": "redis://redis:6379"}, {}),
        ({"REDIS_URL": "redis://me:pw@redis:6379"}, {"redis_api_user": "me", "redis_api_password": "pw"}),
        ({"DATABASE_URL": "postgres://me@[postgres"}, {}),
        ({}, {}),
    ],
)
def test_credentials_are_taken_out_of_an_address(values, found):
    assert url_credentials(values, tables().urls) == found


MAILER = {"base": {"services": {"mailer": {"image": "x:1", "user": "1:1"}}}}
OTHER = {"base": {"services": {"other": {"image": "x:1"}}}, "logins": {"postgres": {"other": {}}}}


def found_in(**services) -> list[str]:
    return problems_of(
        {"stack_variant": "local", "stack_generate_secrets": True, "stack_generated_secrets_file": "/nowhere/generated.json"} | {"stack_services": services}
    )


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"secrets": {"mailer": ["jwt_secert"]}}, "secrets.mailer names the secret jwt_secert, which is a new one. Did you mean jwt_secret?"),
        ({"secrets": {"mailer": {"a": "{{ secret.jwt_secert }}"}}}, "secrets.mailer names the secret jwt_secert, which is a new one. Did you mean jwt_secret?"),
        ({"secrets": {"mailer": {"a": {"content": "{{ secret['jwt_secert'] }}"}}}}, "secrets.mailer names the secret jwt_secert"),
        ({"secrets": {"mailer": "{{ ['jwt_secert'] }}"}}, "secrets.mailer names the secret jwt_secert"),
        (
            {"secrets": {"mailer": {"a": "{{ secret.mailer_tokn }}", "mailer_token": None}}},
            "secrets.mailer names the secret mailer_tokn, which is a new one. Did you mean mailer_token?",
        ),
        (
            {"secrets": {"mailer": {"a": "{{ secret.redis_mailer_pasword }}"}}, "logins": {"redis": {"mailer": {"acl": "+ping"}}}},
            "secrets.mailer names the secret redis_mailer_pasword, which is a new one. Did you mean redis_mailer_password?",
        ),
        (
            {"logins": {"redis": {"mailer": {"acl": "+ping", "user": "{{ secret.redis_api_usr }}"}}}},
            "logins.redis.mailer.user names the secret redis_api_usr, which is a new one. Did you mean redis_api_user?",
        ),
    ],
)
def test_a_misspelt_name_of_a_secret_is_no_new_secret(entry, told):
    (problem,) = found_in(mailer={**MAILER, **entry})
    assert problem.startswith(f"stack_services.mailer.{told}")


def test_a_misspelt_name_of_a_login_s_secret_is_no_new_secret():
    row = {"acl": "+ping", "password": "redis_api_pasword"}
    (problem,) = found_in(mailer={**MAILER, "logins": {"redis": {"mailer": row}}})
    assert problem.startswith(
        "stack_services: the login mailer at redis names the secret redis_api_pasword, which is a new one. Did you mean redis_api_password?"
    )


@pytest.mark.parametrize(
    "entry",
    [
        # Names that nobody else has are new secrets.
        {"secrets": {"mailer": ["nope", "redis_password", "key_1", "key_2"]}},
        {"secrets": {"mailer": {"a": "{{ secret.signing_key_1 }}", "signing_key_2": None}}},
        {"secrets": {"mailer": ["mailer_token", "mailer_tokens"]}},
        # It is meant.
        {"secrets": {"mailer": {"jwt_secert": {"strong": 16}}}},
        {"secrets": {"mailer": {"jwt_secert": {"strong": 16}, "b": "{{ secret.jwt_secert }}"}}},
        {"secrets": {"mailer": ["jwt_secret"]}},
        {"logins": {"redis": {"mailer": {"acl": "+ping", "user": "{{ secret['mail_user'] }}", "password": "mailer_login"}}}},
    ],
)
def test_a_new_name_is_a_new_secret(entry):
    assert found_in(mailer={**MAILER, **entry}) == []


def test_entries_may_come_from_an_expression_that_needs_nothing_of_the_stack():
    given = {"stack_variant": "local", "stack_secrets": GIVEN}
    assert problems_of({**given, "mine": {"mailer": MAILER}, "stack_services": "{{ mine | combine({'scheduler': {'checks': {}}}) }}"}) == []
    # What the message tells to write instead.
    services = {"mailer": {"base": {"services": {"mailer": {"image": "{{ image.node }}", "environment": "{{ mine }}"}}}}}
    assert problems_of({**given, "mine": {"LEVEL": "{{ setting.LOG_LEVEL }}"}, "stack_services": services}) == []


def test_a_login_of_an_entry_that_is_left_out_is_not_there():
    needing = {**MAILER, "needs": {"mailer": {"postgres": "other"}}}
    assert found_in(mailer=needing, other={**OTHER, "when": "{{ variant == 'local' }}"}) == []
    (problem,) = found_in(mailer=needing, other={**OTHER, "when": "{{ variant == 'prod' }}"})
    assert problem == (
        "stack_services.mailer.needs.mailer.postgres: the login other stands in the entry other, which is left out by its condition. "
        "Leave mailer out by the same condition, or give it a login of its own."
    )
    assert found_in(mailer={**needing, "when": False}, other={**OTHER, "when": False}) == []


def test_a_server_of_an_entry_that_is_left_out_is_not_there():
    assert "stack_services.api.needs.api.redis: redis is left out by the condition of its entry, but api needs it. Set stack_redis_external." in found_in(
        redis={"when": False}
    )


def test_a_port_that_two_settings_name_is_reported():
    assert problems_of(BASE | {"stack_frontend_port": 3000}) == [
        "FRONTEND_PORT and API_PORT are the same port. Give each its own, in .env.local or by its variable, such as stack_frontend_port."
    ]


def test_without_secrets_none_is_read_and_none_is_asked_for(aws):
    asked = aws(Answer(problems=["no"]))
    values = {"role_path": "", **AWS}
    declared, _renderer, problems = declare({**values, "role_path": str(Path(declaration.__file__).parents[2] / "roles/stack")}, with_secrets=False)
    assert (problems, asked) == ([], [])
    assert set(declared.secrets.values.values()) == {"not-read"}


def test_a_whole_variable_may_be_an_expression():
    given = trusted({"own_level": "warn"}) | {"stack_log_level": "{{ own_level }}"}
    declared, _renderer, problems = declare(BASE | given)
    assert problems == []
    assert declared.settings["LOG_LEVEL"] == "warn"


class Lookup:
    """The lookup of amazon.aws: it signs in with its client, and answers or fails."""

    def __init__(self, answer):
        self.answer = answer
        self.connected = []
        self.asked = []

    def client(self, *arguments, **options):
        self.connected.append((arguments, options))

    def run(self, terms, variables, **options):
        self.client("secretsmanager", "the collection's own retries")
        self.asked.append((terms, variables, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def read_with(monkeypatch, lookup):
    loaded = []
    monkeypatch.setattr(inputs.lookup_loader, "get", lambda *names, **context: loaded.append((names, context)) or lookup)
    answer = inputs._reader("a templar", "a loader", {"v": 1})("campaign/x", "eu-central-1")
    assert loaded == [(("amazon.aws.secretsmanager_secret",), {"loader": "a loader", "templar": "a templar"})]
    return answer


def test_a_secret_of_aws_is_read_through_amazon_aws_with_limits_of_time(monkeypatch):
    lookup = Lookup(['{"jwt_secret": "x"}'])
    assert read_with(monkeypatch, lookup) == Answer({"jwt_secret": "x"})
    assert lookup.asked == [(["campaign/x"], {"v": 1}, {"region": "eu-central-1"})]
    (((service, retries), options),) = lookup.connected
    assert service == "secretsmanager"
    # Decorates what asks, so that it asks once.
    assert callable(retries)
    assert (options["config"].connect_timeout, options["config"].read_timeout) == (3, 10)
    assert options["config"].retries == {"mode": "standard", "total_max_attempts": 4}


def test_what_amazon_aws_cannot_read_is_told_without_its_words(monkeypatch):
    assert read_with(monkeypatch, Lookup([])).problems == read_with(monkeypatch, Lookup(["[]"])).problems
    (problem,) = read_with(monkeypatch, Lookup(AnsibleError("a value"))).problems
    assert problem == "the answer is not usable (AnsibleError). Try again later, and check stack_aws_secret_id and stack_aws_region."
    (problem,) = read_with(monkeypatch, None).problems
    assert problem == "the collection amazon.aws and the Python package boto3 are needed on this machine. Install both."


@pytest.mark.parametrize(("port", "origin"), [("443", "https://campaign.example.com"), ("8443", "https://campaign.example.com:8443")])
def test_the_address_of_the_page_has_the_port_where_it_is_not_that_of_https(port, origin):
    given = PROD | {"stack_server_name": "campaign.example.com", "stack_https_port": port}
    declared, _renderer, _problems = declare(given)
    assert declared.settings["HTTPS_PORT"] == port
    assert declared.origin() == origin
