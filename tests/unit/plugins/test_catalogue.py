# SPDX-License-Identifier: GPL-3.0-or-later
"""What may stand in an entry of the catalogue, and how an inventory's entries change it."""

import re

import pytest
from ansible_collections.campaign.platform.plugins.plugin_utils import catalogue
from ansible_collections.campaign.platform.plugins.plugin_utils.catalogue import (
    added_problems,
    combine,
    containers_of,
    entry_problems,
    merge,
    owner_problems,
)
from program import tables

SERVICE = {"base": {"services": {"mailer": {"image": "x"}}}}


def entry(**keys):
    return SERVICE | keys


@pytest.mark.parametrize(
    ("given", "told"),
    [
        # Keys of the entry.
        (None, "s.m must be a mapping, or empty to take the service out."),
        ("text", "s.m must be a mapping, or empty to take the service out."),
        (entry(secret={}), "s.m.secret is not known. Did you mean secrets?"),
        (entry(ports=[1]), "s.m.ports is not known."),
        (entry(base=[]), "s.m.base must be a mapping."),
        (entry(checks=[]), "s.m.checks must be a mapping."),
        (entry(when=[]), "s.m.when must be true, false or an expression in braces"),
        (entry(replaced_by={}), "s.m.replaced_by must be the name of a variable."),
        # Compose fragments.
        (entry(dev={"service": {}}), "s.m.dev.service is not known. Did you mean services?"),
        (entry(dev={"secrets": {}}), "s.m.dev.secrets is not known."),
        (entry(dev={"services": ["mailer"]}), "s.m.dev.services must be a mapping."),
        (entry(dev={"services": {"Mailer": {}}}), "s.m.dev.services: a service's name is made of a-z, 0-9 and -"),
        (entry(dev={"services": {"m" * 42: {}}}), "has at most 41 characters"),
        (entry(dev={"services": {"x-mailer": {}}}), "s.m.dev.services: a service's name is made of a-z, 0-9 and -"),
        (entry(dev={"services": {"mailer": []}}), "s.m.dev.services.mailer must be a mapping."),
        (entry(prod={"services": {"mailer": {"imge": "x"}}}), "s.m.prod.services.mailer.imge is not known. Did you mean image?"),
        *[
            (entry(base={"services": {"mailer": {key: {}}}}), f"s.m.base.services.mailer.{key} is not known.")
            # A release builds nothing and is complete by itself.
            for key in ("build", "extends", "develop", "provider")
        ],
        # Images.
        (entry(images={"mailer": "x"}), "s.m.images.mailer must be a mapping."),
        (entry(images={"mailer": {"contex": "."}}), "s.m.images.mailer.contex is not known. Did you mean context?"),
        # Servers and logins.
        (entry(needs={"mailer": ["postgres"]}), "s.m.needs.mailer must be a mapping."),
        (entry(needs={"mailer": {"mysql": "mailer"}}), "s.m.needs.mailer.mysql is not a server. Known are postgres, redis, s3."),
        (entry(logins={"mysql": {}}), "s.m.logins.mysql is not a server. Known are postgres, redis, s3."),
        (entry(logins={"postgres": ["mailer"]}), "s.m.logins.postgres must be a mapping."),
        (entry(logins={"postgres": {"Mailer": {}}}), "s.m.logins.postgres: a login's name is made of a-z, 0-9 and -"),
        (entry(logins={"postgres": {"mailer": "x"}}), "s.m.logins.postgres.mailer must be a mapping."),
        (entry(logins={"postgres": {"mailer": {"acl": "x"}}}), "s.m.logins.postgres.mailer.acl is not known."),
        (entry(logins={"postgres": {"mailer": {"grant": []}}}), "s.m.logins.postgres.mailer.grant is not known. Did you mean grants?"),
        (entry(logins={"redis": {"mailer": {"acl": "x", "role": "y"}}}), "s.m.logins.redis.mailer.role is not known."),
        (entry(logins={"redis": {"mailer": {}}}), "s.m.logins.redis.mailer.acl is missing. Say what the login may do."),
        (entry(logins={"redis": {"mailer": None}}), "s.m.logins.redis.mailer.acl is missing. Say what the login may do."),
        (entry(logins={"redis": {"mailer": {"acl": None}}}), "s.m.logins.redis.mailer.acl is missing. Say what the login may do."),
        (entry(logins={"s3": {"mailer": {}}}), "s.m.logins.s3.mailer.policy is missing. Say what the login may do."),
        (entry(logins={"s3": {"mailer": {"policy": {"template": "x"}, "user": "y"}}}), "s.m.logins.s3.mailer.user is not known."),
        (entry(logins={"s3": {"mailer": {"policy": "x"}}}), "s.m.logins.s3.mailer.policy must be an IAM policy with Statement"),
        (entry(logins={"s3": {"mailer": {"policy": {"statement": []}}}}), "s.m.logins.s3.mailer.policy must be an IAM policy with Statement"),
        # Conditions.
        (entry(when="tls"), "s.m.when must be true, false or an expression in braces"),
        (entry(checks={"a": {"kind": "tcp", "port": 1, "when": "tls"}}), "s.m.checks.a.when must be true, false or an expression in braces"),
        (entry(configs={"m": {"/a": {"content": "x", "when": "tls"}}}), "s.m.configs.m./a.when must be true, false or an expression in braces"),
        # Settings.
        (entry(settings={"COMPOSE_PROFILES": {"pattern": ".", "hint": "x"}}), "s.m.settings.COMPOSE_PROFILES: Docker Compose itself reads names that begin"),
        (entry(settings={"MAILER_FROM": "x"}), "s.m.settings.MAILER_FROM must be a mapping."),
        (entry(settings={"mailer_from": {"pattern": ".", "hint": "x"}}), "s.m.settings.mailer_from: a setting's name is made of A-Z, 0-9 and _."),
        (entry(settings={"A": {"pattern": "."}}), "s.m.settings.A.hint is missing."),
        (entry(settings={"A": {"hint": "x"}}), "s.m.settings.A needs a rule: pattern, or minimum and maximum, which are whole numbers."),
        (entry(settings={"A": {"hint": "x", "minimum": 1}}), "s.m.settings.A needs a rule: pattern, or minimum and maximum, which are whole numbers."),
        (entry(settings={"A": {"hint": "x", "pattern": ".", "defalt": 1}}), "s.m.settings.A.defalt is not known. Did you mean default?"),
        # Secret files.
        (entry(secrets={"mailer": 1}), "s.m.secrets.mailer must be a mapping or a list of names."),
        (entry(secrets={"mailer": ["a/b"]}), "s.m.secrets.mailer: a secret file's name is made of letters, digits, ., _ and -."),
        (entry(secrets={"mailer": {"../a": "x"}}), "s.m.secrets.mailer: a secret file's name is made of"),
        (entry(secrets={"mailer": {"a": {"tempalte": "x"}}}), "s.m.secrets.mailer.a.tempalte is not known. Did you mean template?"),
        (entry(secrets={"mailer": {"a": {"rotated": "no"}}}), "s.m.secrets.mailer.a.rotated must be true or false."),
        (entry(secrets={"mailer": {"a": {"rotated": False, "content": "{{ secret.x }}"}}}), "s.m.secrets.mailer.a.rotated is of a secret and not of a text."),
        (entry(secrets={"mailer": {"a": 1}}), "s.m.secrets.mailer.a must be a mapping."),
        # Config files.
        (entry(configs={"mailer": ["/a"]}), "s.m.configs.mailer must be a mapping of paths in the container."),
        (entry(configs={"mailer": {"a/b": {"content": "x"}}}), "s.m.configs.mailer: a/b must be an absolute path in the container."),
        (entry(configs={"mailer": {"/a/": {"content": "x"}}}), "s.m.configs.mailer: /a/ must be an absolute path in the container."),
        (entry(configs={"mailer": {"/a": {}}}), "s.m.configs.mailer./a needs either template or content."),
        (entry(configs={"mailer": {"/a": {"content": "x", "template": "y"}}}), "s.m.configs.mailer./a needs either template or content."),
        (entry(configs={"mailer": {"/a": {"content": "x", "mode": "0444"}}}), "s.m.configs.mailer./a.mode is not known."),
        (entry(configs={"mailer": {"/a": "x"}}), "s.m.configs.mailer./a must be a mapping."),
        # Jobs and checks.
        (entry(jobs={"mailer": {"restore_logins": True}}), "s.m.jobs.mailer.restore_logins is not known. Did you mean restores_logins?"),
        (entry(jobs={"mailer": "x"}), "s.m.jobs.mailer must be a mapping."),
        (entry(checks={"health": {}}), "s.m.checks.health.kind must be one of http, probe, tcp, command."),
        (entry(checks={"health": {"kind": "https"}}), "s.m.checks.health.kind must be one of http, probe, tcp, command."),
        (entry(checks={"health": {"kind": "http", "port": 1, "prot": 1}}), "s.m.checks.health.prot is not known. Did you mean port?"),
        (entry(checks={"health": {"kind": "http"}}), "s.m.checks.health.port is missing. A check of the kind http needs it."),
        (entry(checks={"health": "http"}), "s.m.checks.health must be a mapping."),
        (entry(checks={"health": {"kind": "http", "port": "http"}}), "s.m.checks.health.port must be a TCP port, 1 to 65535."),
        (entry(checks={"x": {"kind": "command", "command": "node check.mjs"}}), "s.m.checks.x.command must be a list, such as [node, check.mjs]."),
        (entry(checks={"x": {"kind": "tcp", "port": 1, "depth": "deep"}}), "s.m.checks.x.depth must be basic or full."),
        (entry(checks={"x": {"kind": "tcp", "port": 1, "expect": "closed"}}), "s.m.checks.x.expect must be open or loopback."),
        (entry(checks={"x": {"kind": "tcp", "port": 1, "when": "tls"}}), "s.m.checks.x.when must be true, false or an expression in braces"),
        (entry(checks={"x": {"kind": "http", "port": 1, "json": "status"}}), "s.m.checks.x.json must be a mapping, such as {query: status, equals: ok}."),
        (entry(checks={"x": {"kind": "http", "port": 1, "json": {"equals": 1}}}), "s.m.checks.x.json.query must be a JMESPath expression, such as status."),
        (entry(checks={"x": {"kind": "http", "port": 1, "json": {"query": "a", "equal": 1}}}), "s.m.checks.x.json.equal is not known. Did you mean equals?"),
        (entry(checks={"x": {"kind": "http", "port": 1, "json": {"query": "a["}}}), "s.m.checks.x.json.query: it is not a JMESPath expression: "),
        (
            entry(checks={"x": {"kind": "http", "port": 1, "json": {"query": "lenght(a)"}}}),
            "json.query: lenght is not a function of JMESPath. Did you mean length?",
        ),
        (
            entry(checks={"x": {"kind": "http", "port": 1, "json": {"query": "a", "equals": None}}}),
            "s.m.checks.x.json.equals is empty. Leave it out, or compare",
        ),
        (entry(checks={"x": {"kind": "tcp", "port": 1, "json": {"query": "a"}}}), "s.m.checks.x.json is for the kind http."),
        # Metrics.
        (entry(metrics={"x": {}}), "s.m.metrics.x.command must be a list that prints a number, such as [node, queue-length.mjs]."),
        (entry(metrics={"x": {"command": "node x.mjs"}}), "s.m.metrics.x.command must be a list that prints a number"),
        (entry(metrics={"x": {"command": []}}), "s.m.metrics.x.command must be a list that prints a number"),
        (entry(metrics={"x": {"command": ["x"], "limt": 1}}), "s.m.metrics.x.limt is not known. Did you mean limit?"),
        (entry(metrics={"x": {"command": ["x"], "limit": "1"}}), "s.m.metrics.x.limit must be a number."),
        (entry(metrics={"x": {"command": ["x"], "expect": True}}), "s.m.metrics.x.expect must be a number."),
        (entry(metrics={"x": {"command": ["x"], "when": "tls"}}), "s.m.metrics.x.when must be true, false or an expression in braces"),
        (entry(metrics={"x": None}), "s.m.metrics.x is empty, which takes a metric out, but there is no metric of that name."),
        (entry(metrics={"x": "cat"}), "s.m.metrics.x must be a mapping."),
        (entry(routes={"x": {"to": {"api": 1}}}), "s.m.routes.x.directory must be an absolute path in the container, such as /etc/nginx/routes."),
        (entry(routes={"x": {"directory": "routes", "to": {"api": 1}}}), "s.m.routes.x.directory must be an absolute path in the container"),
        (entry(routes={"x": {"directory": "/r"}}), "s.m.routes.x.to must be a mapping of services to their ports, such as {api: 3000}."),
        (entry(routes={"x": {"directory": "/r", "to": {}}}), "s.m.routes.x.to must be a mapping of services to their ports"),
        (entry(routes={"x": {"directory": "/r", "to": {"api": "3000"}}}), "s.m.routes.x.to.api must be a service's name with the TCP port"),
        (entry(routes={"x": {"directory": "/r", "to": {"api": 0}}}), "s.m.routes.x.to.api must be a service's name with the TCP port"),
        (entry(routes={"x": {"directory": "/r", "to": {"api": 65536}}}), "s.m.routes.x.to.api must be a service's name with the TCP port"),
        (entry(routes={"x": {"directory": "/r", "to": {"api": True}}}), "s.m.routes.x.to.api must be a service's name with the TCP port"),
        (entry(routes={"x": {"directory": "/r", "to": {"a;b": 1}}}), "s.m.routes.x.to.a;b must be a service's name with the TCP port"),
        (entry(routes={"x": {"directory": "/r", "to": {"api": 1}, "form": 1}}), "s.m.routes.x.form is not known."),
        (entry(when="variant == 'local'"), "s.m.when must be true, false or an expression in braces"),
        (entry(logins={"postgres": {"m": {"grants": "SELECT ON TABLE x"}}}), "s.m.logins.postgres.m.grants must be a list of texts"),
        (entry(secrets={"m": "token"}), "s.m.secrets.m must be a mapping or a list of names."),
    ],
)
def test_what_is_wrong_with_an_entry_is_reported_by_its_path(given, told):
    problems = list(entry_problems("s.m", given))
    assert len(problems) == 1, problems
    assert told in problems[0]


NEEDED = {"postgres": {}, "redis": {"acl": "x"}, "s3": {"policy": {"Statement": []}}}


@pytest.mark.parametrize(
    ("server", "key", "wrong"),
    [
        *(("postgres", key, ["", "a b", "a'b", "ä", "a" * 65]) for key in ("user", "role", "schema")),
        # The name of a secret, which is the collection's own.
        *((server, "password", ["", "a b", "a'b", "ä", "A", "a" * 65]) for server in ("postgres", "redis")),
        ("redis", "user", ["", "a b"]),
        *(("s3", key, ["", "a b", "a'b", "ä", "A", "a" * 65]) for key in ("access_key", "secret_key")),
    ],
)
def test_a_name_at_a_server_is_one_that_the_server_allows(server, key, wrong):
    def problems(name):
        return list(entry_problems("s.m", entry(logins={server: {"mailer": {**NEEDED[server], key: name}}})))

    assert problems("mailer_2") == problems("{{ setting.MAILER_NAME }}") == []
    for name in wrong:
        (problem,) = problems(name)
        assert problem.startswith(f"s.m.logins.{server}.mailer.{key} must be a name of "), name
        assert problem.endswith(", and one that the server allows.")


def test_everything_that_is_wrong_is_reported_at_once():
    given = {"bse": {}, "settings": {"a": {}}, "dev": {"services": {"x": {"imge": 1}}}}
    assert len(list(entry_problems("s.m", given))) == 5
    logins = {"mysql": {}, "redis": ["x"], "postgres": {"A": {}, "a": "x", "b": {"grant": []}}}
    told = list(entry_problems("s.m", entry(logins=logins)))
    assert [problem.split()[0].removeprefix("s.m.logins.") for problem in told] == ["mysql", "redis", "postgres:", "postgres.a", "postgres.b.grant"]


@pytest.mark.parametrize(
    "given",
    [
        SERVICE,
        entry(images={"a": None, "b": {"upstream": "x"}, "c": {"context": ".", "dockerfile": "D", "target": "t", "args": {}, "parents": {}}}),
        entry(logins={"postgres": {"a": None, "b": {"user": "u", "password": "p", "role": "r", "schema": "s", "grants": ["x"], "admin": True}}}),
        entry(logins={"redis": {"a": {"acl": "x"}}, "s3": {"a": {"policy": {"Statement": []}}, "b": {"policy": {"template": "x"}}}}),
        entry(settings={"A": {"minimum": 1, "maximum": 2, "hint": "x"}, "B": {"pattern": ".", "hint": "x", "default": "y"}, "C": None}),
        entry(secrets={"a": ["x"], "b": {"x": None, "y": "{{ secret.y }}", "z": {"strong": 32, "generated": False, "rotated": False}}, "c": "{{ ['x'] }}"}),
        entry(configs={"a": {"/x/y.conf": {"content": "x", "when": "{{ tls }}"}, "/z": {"template": "z.j2"}}, "b": "{{ {} }}"}),
        entry(jobs={"a": None, "b": {"restores_logins": True}}),
        entry(checks={"a check in words": {"kind": "tcp", "port": 1}}, when="{{ tls }}", replaced_by="stack_x"),
        entry(checks={"x": {"kind": "http", "port": 1, "json": {"query": "status", "equals": "ok"}}}),
        entry(checks={"x": {"kind": "http", "port": 1, "json": {"query": "{{ x }}"}}, "y": {"kind": "http", "port": 1, "json": "{{ x }}"}}),
        entry(checks={"x": {"kind": "tcp", "port": "{{ setting.X_PORT }}", "expect": "{{ y }}", "depth": "full", "when": False}}),
        entry(routes={"x": {"directory": "/etc/nginx/routes", "to": {"api": 65535, "page": 1}}, "y": None}),
        entry(metrics={"x": {"command": ["x"], "limit": 1.5, "expect": 0, "remedy": "y", "when": "{{ tls }}", "service": "z"}, "y": {"command": "{{ x }}"}}),
        entry(hot_reload={"services": {"a": None, "b": "{{ x }}"}, "volumes": {}, "networks": {}}, tls={}, prod=None),
    ],
)
def test_what_is_right_is_taken(given):
    assert list(entry_problems("s.m", given)) == []


def test_a_check_that_is_taken_out_has_to_be_there():
    known = entry(checks={"ready": {"kind": "tcp", "port": 1}})
    assert list(entry_problems("s.m", {"checks": {"ready": None}}, known)) == []
    assert list(entry_problems("s.m", {"checks": {"redy": None}}, known)) == [
        "s.m.checks.redy is empty, which takes a check out, but there is no check of that name. Did you mean ready?"
    ]


def test_a_metric_is_changed_or_taken_out_by_its_name():
    known = entry(metrics={"queue": {"command": ["x"]}})
    assert list(entry_problems("s.m", {"metrics": {"queue": None}}, known)) == []
    assert list(entry_problems("s.m", {"metrics": {"queue": {"limit": 5}}}, known)) == []


def test_the_collection_s_own_entries_are_right_and_own_what_they_name():
    services = tables().services
    problems = [problem for name, own in services.items() for problem in entry_problems(name, own)]
    # Names that belong to the collection's own logins, and those that an external server allows, are for its own rules.
    own = re.compile(r"POSTGRES_(USER|DB)\.(reserved|outside) is not known")
    assert [problem for problem in problems if not own.search(problem)] == []
    assert list(owner_problems(services, "s", {})) == []
    assert {key for own in services.values() for key in own} == set(catalogue.KEYS) - {"images"}


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ({"Mailer": SERVICE}, ["s: an entry's name is made of a-z, 0-9 and -, begins with a letter and has at most 41 characters."]),
        ({"schedular": None}, ["s.schedular is empty, which takes an entry out, but there is no entry of that name. Did you mean scheduler?"]),
        ({"mailer": {}}, ["s.mailer.base.services is missing. A new service needs at least one container there. Known are"]),
        ({"schedular": {"base": {}}}, ["s.schedular.base.services is missing. A new service needs at least one container there. Did you mean scheduler?"]),
        ({"mailer": entry(bse={}), "scheduler": {"bse": {}}}, ["s.mailer.bse is not known.", "s.scheduler.bse is not known."]),
        ({"scheduler": None, "api": {"checks": {"ready": None}}, "mailer": SERVICE}, []),
        ({"api": {"checks": {"redy": None}}}, ["s.api.checks.redy is empty, which takes a check out, but there is no check of that name. Did you mean ready?"]),
        ({"mailer": entry(checks={"a": None})}, ["s.mailer.checks.a is empty, which takes a check out, but there is no check of that name."]),
        (
            {"postgres-bootstrap": {"base": {"services": {"postgres-bootstrap": {"environment": {"PGCONNECT_TIMEOUT": "5"}}}}}},
            ["s.postgres-bootstrap.base.services.postgres-bootstrap.environment is an expression in the collection's own entry, so nothing can be added"],
        ),
        ({"frontend": {"secrets": {"frontend": ["extra"]}}}, ["s.frontend.secrets.frontend is an expression in the collection's own entry"]),
        ({"api": {"base": {"services": {"api": {"healthcheck": {"test": ["CMD", "true"]}}}}}}, []),
    ],
)
def test_what_is_wrong_with_added_entries_is_reported(added, told):
    problems = list(added_problems(added, tables().services, "s"))
    assert len(problems) == len(told), problems
    assert [problem for problem, start in zip(problems, told, strict=True) if not problem.startswith(start)] == []


ONE = {"base": {"services": {"one": {}}}, "logins": {"redis": {"one": {"acl": "x"}}}, "images": {"one": {}}}


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ({"base": {"services": {"two": {}}}}, []),
        ({"dev": {"services": {"one": {}}}}, ["s.two: the container one belongs to the entry one. Change it there, or choose another name."]),
        ({"logins": {"redis": {"one": {}}}}, ["s.two: the login one at redis belongs to the entry one. Change it there, or choose another name."]),
        ({"logins": {"postgres": {"one": {}}}}, []),
        ({"images": {"one": {}}}, ["s.two: the image one belongs to the entry one. Change it there, or choose another name."]),
    ],
)
def test_two_entries_do_not_own_the_same(added, told):
    assert list(owner_problems({"one": ONE, "two": added}, "s", {"two": added})) == told
    # It is the inventory's entry that is told, wherever it stands.
    assert list(owner_problems({"two": added, "one": ONE}, "s", {"two": added})) == told


def test_the_containers_of_an_entry_are_those_of_all_layers():
    given = {layer: {"services": {layer.replace("_", "-"): {}}} for layer in catalogue.LAYERS}
    assert containers_of(given) == {"base", "dev", "prod", "hot-reload", "tls"}
    assert containers_of({"base": None, "dev": {}}) == set()


@pytest.mark.parametrize(
    ("left", "right", "merged"),
    [
        ({"a": 1, "b": 1}, {"b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 2}}}, {"a": {"b": {"c": 1, "d": 2}}}),
        ({"ports": ["1"]}, {"ports": ["2"]}, {"ports": ["1", "2"]}),
        ({"networks": ["a", "b"]}, {"networks": ["b", "c"]}, {"networks": ["a", "b", "c"]}),
        ({"command": ["a", "b"]}, {"command": ["c"]}, {"command": ["c"]}),
        ({"entrypoint": ["a"]}, {"entrypoint": []}, {"entrypoint": []}),
        ({"healthcheck": {"test": ["a"], "retries": 1}}, {"healthcheck": {"test": ["b"]}}, {"healthcheck": {"test": ["b"], "retries": 1}}),
        ({"command": "a"}, {"command": ["b"]}, {"command": ["b"]}),
        ({"read_only": True}, {"read_only": False}, {"read_only": False}),
        # What Compose takes as a list too.
        ({"networks": {"a": {"aliases": ["x"]}}}, {"networks": ["b"]}, {"networks": {"a": {"aliases": ["x"]}, "b": None}}),
        ({"networks": ["a"]}, {"networks": {"b": None}}, {"networks": {"a": None, "b": None}}),
        (
            {"depends_on": ["a"]},
            {"depends_on": {"b": {"condition": "service_healthy"}}},
            {"depends_on": {"a": {"condition": "service_started"}, "b": {"condition": "service_healthy"}}},
        ),
        ({"environment": ["A=1", "B=x=y", "C"]}, {"environment": {"A": "2"}}, {"environment": {"A": "2", "B": "x=y", "C": None}}),
        ({"environment": {"A": "1"}}, {"environment": ["A=2"]}, {"environment": {"A": "2"}}),
        ({"labels": ["a=b"]}, {"labels": {"c": "d"}}, {"labels": {"a": "b", "c": "d"}}),
        ({"extra_hosts": ["h:1.2.3.4"]}, {"extra_hosts": {"i": "::1"}}, {"extra_hosts": {"h": "1.2.3.4", "i": "::1"}}),
    ],
)
def test_fragments_merge_as_compose_merges_files(left, right, merged):
    before = repr((left, right))
    assert merge(left, right) == merged
    assert repr((left, right)) == before


BUILT_IN = {
    "api": {
        "base": {"services": {"api": {"image": "a", "environment": {"A": "1", "B": "1"}, "networks": ["n"]}}},
        "checks": {"one": {"kind": "tcp"}, "two": {}},
    },
    "scheduler": {"base": {}},
}


@pytest.mark.parametrize(
    ("added", "changed"),
    [
        ({}, {}),
        ({"scheduler": None}, {"scheduler": None}),
        ({"mailer": {"jobs": {"a": None}}}, {"mailer": {"jobs": {"a": None}}}),
        (
            {"api": {"base": {"services": {"api": {"environment": {"B": "2", "C": "3"}, "networks": ["m"], "labels": {"x": "y"}}}}}},
            {
                "api": {
                    "base": {"services": {"api": {"image": "a", "environment": {"A": "1", "B": "2", "C": "3"}, "networks": ["n", "m"], "labels": {"x": "y"}}}},
                    "checks": BUILT_IN["api"]["checks"],
                }
            },
        ),
        ({"api": {"checks": {"one": None}}}, {"api": {**BUILT_IN["api"], "checks": {"two": {}}}}),
        ({"api": {"checks": {"one": {"port": 1}}}}, {"api": {**BUILT_IN["api"], "checks": {"one": {"kind": "tcp", "port": 1}, "two": {}}}}),
        ({"api": {"checks": None}}, {"api": {"base": BUILT_IN["api"]["base"]}}),
        (
            {"api": {"base": {"services": {"api": {"environment": {"A": None}}}}}},
            {
                "api": {
                    "base": {"services": {"api": {**BUILT_IN["api"]["base"]["services"]["api"], "environment": {"B": "1"}}}},
                    "checks": BUILT_IN["api"]["checks"],
                }
            },
        ),
    ],
)
def test_an_inventory_s_entries_are_merged_over_the_collection_s(added, changed):
    before = repr(BUILT_IN)
    expected = {name: entry for name, entry in (BUILT_IN | changed).items() if entry is not None}
    assert combine(BUILT_IN, added) == expected
    assert repr(BUILT_IN) == before


@pytest.mark.parametrize(
    ("known", "added", "changed"),
    [
        # What is known is taken out by a null, in whatever form it stands.
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"networks": ["a", "b"]}, {"networks": {"a": None}}, {"networks": {"b": None}}),
        ({"environment": {"A": "1"}}, {"environment": None}, {}),
        # What is not known has no options: it must not be lost, nor take along what stands beside it.
        ({"volumes": {"a": {}}}, {"volumes": {"b": None}}, {"volumes": {"a": {}, "b": None}}),
        ({"networks": ["a"]}, {"networks": {"b": {"aliases": ["x"]}}}, {"networks": {"a": None, "b": {"aliases": ["x"]}}}),
        ({"networks": ["a"]}, {"networks": {"b": None}}, {"networks": {"a": None, "b": None}}),
    ],
)
def test_a_null_takes_out_only_what_is_known(known, added, changed):
    assert catalogue.change(known, added) == changed


@pytest.mark.parametrize("added", [["c"], {"c": None}, {"c": "{{ secret.d }}"}])
def test_secret_files_are_added_to_those_of_a_service_in_either_form(added):
    own = {"secrets": {"one": ["a", "b"]}}
    files = combine({"one": own}, {"one": {"secrets": {"one": added}}})["one"]["secrets"]["one"]
    assert list(files) == ["a", "b", "c"]
    assert list(combine({"one": own}, {"one": {"secrets": {"one": {"a": None}}}})["one"]["secrets"]["one"]) == ["b"]


def test_a_value_of_an_inventory_s_base_holds_in_prod_too():
    limits = {"deploy": {"resources": {"limits": {"memory": "512m", "cpus": "1"}}}}
    own = {
        "base": {"services": {"a": {"image": "a:1"}}},
        "prod": {"services": {"a": {**limits, "command": ["a", "--small"], "networks": ["b"]}}},
    }
    base = {"services": {"a": {"deploy": {"resources": {"limits": {"memory": "2g"}}}, "command": ["a"], "networks": ["c"], "cpu_shares": None}}}
    prod = combine({"one": own}, {"one": {"base": base}})["one"]["prod"]["services"]["a"]
    assert prod == {"deploy": {"resources": {"limits": {"cpus": "1"}}}, "networks": ["b"]}
    # What it says of prod counts there.
    more = {"services": {"a": {"command": ["a", "--large"]}}}
    prod = combine({"one": own}, {"one": {"base": base, "prod": more}})["one"]["prod"]["services"]["a"]
    assert prod["command"] == ["a", "--large"]
    assert own["prod"]["services"]["a"]["command"] == ["a", "--small"]
    assert combine({"one": own}, {"one": {"dev": base}})["one"]["prod"] == own["prod"]
