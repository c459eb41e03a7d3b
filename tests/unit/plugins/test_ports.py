# SPDX-License-Identifier: GPL-3.0-or-later
"""Published ports are read as Docker Compose reads them, and what is published in another way than it looks is refused."""

import pytest
from ansible_collections.campaign.platform.plugins.plugin_utils.ports import MOST, clash_problems, form_problems, published, read
from program import problems_of, secret_names

SETTINGS = {"BIND_ADDRESS": "127.0.0.1", "API_PORT": "3000"}


@pytest.mark.parametrize(
    ("port", "found"),
    [
        ("127.0.0.1:8080:80", [("127.0.0.1", 8080, "tcp", "")]),
        ("0.0.0.0:8080:80/tcp", [("0.0.0.0", 8080, "tcp", "")]),
        ("127.0.0.1:53:53/udp", [("127.0.0.1", 53, "udp", "")]),
        ("127.0.0.1:8000-8002:9000-9002", [("127.0.0.1", number, "tcp", "") for number in (8000, 8001, 8002)]),
        ("127.0.0.1:8000-8001:9000-9001/udp", [("127.0.0.1", number, "udp", "") for number in (8000, 8001)]),
        ("${BIND_ADDRESS:?}:${API_PORT:?}:3000", [("127.0.0.1", 3000, "tcp", "API_PORT")]),
        ("${BIND_ADDRESS}:${OTHER:-81}:80", [("127.0.0.1", 81, "tcp", "")]),
        ({"target": 80, "published": "8080", "host_ip": "127.0.0.1"}, [("127.0.0.1", 8080, "tcp", "")]),
        ({"target": 53, "published": 53, "host_ip": "${BIND_ADDRESS}", "protocol": "udp"}, [("127.0.0.1", 53, "udp", "")]),
        ({"target": 80, "published": "${API_PORT}", "host_ip": "127.0.0.1", "mode": "host"}, [("127.0.0.1", 3000, "tcp", "API_PORT")]),
        # What is no setting is reported by itself.
        ("127.0.0.1:${NOWHERE:?}:80", []),
    ],
)
def test_published_ports_are_read_as_compose_reads_them(port, found):
    assert [(one.address, one.port, one.protocol, one.setting) for one in read(port, SETTINGS)] == found
    assert list(form_problems("x", [port], SETTINGS)) == []
    # Firewall, verification and the check of what is taken are about TCP.
    assert list(published({"api": {"ports": [port]}, "other": {}}, SETTINGS)) == [
        ("api", address, number, setting) for address, number, protocol, setting in found if protocol == "tcp"
    ]


@pytest.mark.parametrize(
    ("port", "told"),
    [
        ("8025:8025", "publishes 8025:8025 on every address of the host. Say on which: 127.0.0.1:8025:8025, or 0.0.0.0:8025:8025 for all of them."),
        ("${API_PORT}:80", "publishes ${API_PORT}:80 on every address of the host. Say on which: 127.0.0.1:3000:80, or 0.0.0.0:3000:80 for all of them."),
        ({"target": 80, "published": 8080}, "publishes 8080:80 on every address of the host."),
        ("80", "publishes 80 on a port that Docker chooses, another one after each start. Say which: 127.0.0.1:PORT:80."),
        (80, "publishes 80 on a port that Docker chooses"),
        ("127.0.0.1::80", "publishes 127.0.0.1::80 on a port that Docker chooses"),
        ({"target": 80}, "publishes 80 on a port that Docker chooses"),
        ("[::1]:80:80", "publishes [::1]:80:80 on [::1], which is not an IPv4 address. The firewall and the checks of the stack are for those."),
        ({"target": 80, "published": 80, "host_ip": "::1"}, "publishes ::1:80:80 on ::1, which is not an IPv4 address."),
        ("localhost:80:80", "publishes localhost:80:80 on localhost, which is not an IPv4 address."),
        ("127.0.0.256:80:80", "publishes 127.0.0.256:80:80 on 127.0.0.256, which is not an IPv4 address."),
        ("127.0.0.1:8000-8010:80", "publishes 127.0.0.1:8000-8010:80: 11 ports for 1. Give each port of the container one port of the host."),
        ("127.0.0.1:8000:80-81", "publishes 127.0.0.1:8000:80-81: 1 ports for 2."),
        ("127.0.0.1:8010-8000:10-0", "publishes 127.0.0.1:8010-8000:10-0, which is not a port or a range of ports, 1 to 65535."),
        ("127.0.0.1:65536:80", "publishes 127.0.0.1:65536:80, which is not a port or a range of ports, 1 to 65535."),
        ("127.0.0.1:0:80", "publishes 127.0.0.1:0:80, which is not a port or a range of ports, 1 to 65535."),
        ("127.0.0.1:1-60000:1-60000", f"publishes 127.0.0.1:1-60000:1-60000, which are more than {MOST} ports."),
        ("127.0.0.1:80:80/sctp", "publishes 127.0.0.1:80:80/sctp by sctp. Known are tcp and udp."),
        ("http", "publishes http, which is not a port. Write 127.0.0.1:PORT:PORT_OF_THE_CONTAINER."),
        ("::1:80:80", "publishes ::1:80:80, which is not a port."),
    ],
)
def test_a_port_that_is_not_published_as_it_looks_is_refused(port, told):
    (problem,) = form_problems("the container x", [port], SETTINGS)
    assert problem.startswith(f"the container x {told}")
    assert list(published({"x": {"ports": [port]}}, SETTINGS)) == []


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("127.0.0.1:${API_PORT}:3000", "127.0.0.1:3000:80", "API_PORT and port 3000 of b are the same port."),
        ("127.0.0.1:8000-8010:8000-8010", "0.0.0.0:8005:80", "port 8005 of a and port 8005 of b are the same port."),
        ("127.0.0.1:53:53/udp", "127.0.0.1:50-54:50-54/udp", "port 53/udp of a and port 53/udp of b are the same port."),
        ("127.0.0.1:53:53/udp", "127.0.0.1:53:53", None),
        ("127.0.0.1:8000-8010:8000-8010", "127.0.0.1:8011:80", None),
    ],
)
def test_a_port_that_two_services_publish_is_reported(one, other, told):
    problems = list(clash_problems({"a": {"ports": [one]}, "b": {"ports": [other]}}, SETTINGS))
    assert [problem.partition(" Give each its own")[0] for problem in problems] == ([told] if told else [])


@pytest.mark.parametrize(
    ("port", "told"),
    [
        ("8025:8025", "stack_services.mailer: the container mailer publishes 8025:8025 on every address of the host."),
        ("127.0.0.1:5400-5500:5400-5500", "POSTGRES_PORT and port 5432 of mailer are the same port."),
    ],
)
@pytest.mark.parametrize("layer", ["base", "dev"])
def test_the_ports_of_an_inventory_s_service_are_looked_at(port, told, layer):
    services = {"mailer": {"base": {"services": {"mailer": {"image": "x:1"}}}}}
    services["mailer"].setdefault(layer, {"services": {"mailer": {}}})["services"]["mailer"]["ports"] = [port]
    (problem,) = problems_of({"stack_variant": "local", "stack_services": services, "stack_secrets": {name: f"{name}-given" for name in secret_names()}})
    assert problem.startswith(told)
