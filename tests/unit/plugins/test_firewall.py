# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that let only given sources reach published ports: how they are written, and what the kernel makes of them.

The tests of the kernel need root. They build a host, two clients and a container out of network namespaces of their own.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.campaign.platform.plugins.modules import firewall as module
from ansible_collections.campaign.platform.plugins.modules.firewall import chain_of, script_text, wanted_rules

PORTS = [{"address": "0.0.0.0", "port": 443}, {"address": "192.0.2.1", "port": 80}]


def test_each_port_lets_its_sources_in_and_drops_the_rest():
    rules = wanted_rules("STACK-x", ["198.51.100.0/24", "203.0.113.7/32"], PORTS)
    assert [re.sub(r" -p tcp -m conntrack --ctstate DNAT", "", rule) for rule in rules] == [
        "-A STACK-x -s 198.51.100.0/24 --ctorigdst 192.0.2.1 --ctorigdstport 80 --ctdir ORIGINAL -j RETURN",
        "-A STACK-x -s 203.0.113.7/32 --ctorigdst 192.0.2.1 --ctorigdstport 80 --ctdir ORIGINAL -j RETURN",
        "-A STACK-x --ctorigdst 192.0.2.1 --ctorigdstport 80 --ctdir ORIGINAL -j DROP",
        "-A STACK-x -s 198.51.100.0/24 --ctorigdstport 443 --ctdir ORIGINAL -j RETURN",
        "-A STACK-x -s 203.0.113.7/32 --ctorigdstport 443 --ctdir ORIGINAL -j RETURN",
        "-A STACK-x --ctorigdstport 443 --ctdir ORIGINAL -j DROP",
    ]


def test_every_rule_is_about_forwarded_ports_only():
    # Without it, containers' own requests to port 443 of anything would be dropped.
    assert all("--ctstate DNAT" in rule for rule in wanted_rules("STACK-x", ["198.51.100.0/24"], PORTS))


@pytest.mark.parametrize("source", ["198.51.100.1/24", "198.51.100.0/33", "2001:db8::/32", "office", ""])
def test_what_is_not_a_network_is_refused(source):
    with pytest.raises(ValueError, match=r".+"):
        wanted_rules("STACK-x", [source], PORTS)


@pytest.mark.parametrize("project", ["campaign", "a" * 22, "a" * 23, "a" * 63])
def test_a_chain_has_a_name_that_iptables_takes(project):
    assert len(chain_of(project)) <= 28


def test_long_projects_do_not_share_a_chain():
    assert chain_of("a" * 40) != chain_of("a" * 41)


def test_the_script_replaces_the_chain_at_once_and_leaves_other_rules_alone():
    text = script_text("STACK-x", ["-A STACK-x -j DROP"])
    assert "iptables-restore --wait --noflush" in text
    # A chain that is declared is flushed: that is for the stack's own only.
    assert re.findall(r"^:(\S+)", text, re.MULTILINE) == ["STACK-x"]


class Namespace:
    """A network namespace without a name, which goes with the test. What a thread starts or opens inside belongs to it."""

    def __init__(self):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        os.unshare(os.CLONE_NEWNET)
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        os.setns(home)
        os.close(home)
        self.path = f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def inside(self):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        os.setns(self.descriptor)
        try:
            yield
        finally:
            os.setns(home)
            os.close(home)

    def run(self, *argv: str, text: str = "") -> str:
        with self.inside():
            done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def listens(self, port: int) -> socket.socket:
        """Let the kernel take connections."""
        with self.inside():
            return socket.create_server(("0.0.0.0", port), backlog=64)

    def reaches(self, address: str, port: int) -> bool:
        with self.inside(), socket.socket() as client:
            # Between namespaces a connection is made within the call, if at all.
            client.settimeout(0.5)
            return client.connect_ex((address, port)) == 0


OFFICE, ELSEWHERE = "198.51.100.0/24", "203.0.113.0/24"
# The host has a second address towards the office.
HOST, SECOND = "198.51.100.1", "198.51.100.2"
PUBLISHED = [{"address": "0.0.0.0", "port": 8080}]
CHAIN = "STACK-shop"


class Network:
    """A host that publishes ports 8080 and 8081 of a container, as the Engine does, and a client in each of two networks."""

    def __init__(self):
        self.host, self.office, self.elsewhere, self.container = (Namespace() for _number in range(4))
        peers = [(self.office, "198.51.100", [HOST, SECOND]), (self.elsewhere, "203.0.113", ["203.0.113.1"]), (self.container, "10.77.0", ["10.77.0.1"])]
        for number, (peer, network, addresses) in enumerate(peers):
            commands = [f"link add v{number} type veth peer name eth0 netns {peer.path}", f"link set v{number} up"]
            commands += [f"address add {address}/24 dev v{number}" for address in addresses]
            self.host.run("ip", "-batch", "-", text="\n".join(commands))
            peer.run("ip", "-batch", "-", text=f"link set lo up\naddress add {network}.10/24 dev eth0\nlink set eth0 up\nroute add default via {network}.1")
        with self.host.inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        rules = "".join(f"-A PREROUTING ! -i v2 -p tcp --dport {port} -j DNAT --to-destination 10.77.0.10:80\n" for port in (8080, 8081))
        self.host.run("iptables-restore", "--noflush", text=f"*nat\n{rules}COMMIT\n")
        self.servers = [self.container.listens(80), self.elsewhere.listens(8080)]

    def start_engine(self) -> None:
        """What the Engine does when it starts; it leaves a DOCKER-USER that is there already as it is."""
        with self.host.inside():
            subprocess.run(["iptables", "-N", "DOCKER-USER"], capture_output=True, check=False)
        self.host.run("iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
        # Until version 28.
        self.host.run("iptables", "-A", "DOCKER-USER", "-j", "RETURN")

    def who_reaches(self, address: str = HOST, port: int = 8080) -> list[str]:
        return [name for name in ("office", "elsewhere") if getattr(self, name).reaches(address, port)]

    def rules(self) -> str:
        return self.host.run("iptables", "-S")


@pytest.fixture(scope="module", autouse=True)
def tools():
    """iptables and ip, which the Engine's packages bring."""
    if not (shutil.which("iptables") and shutil.which("ip")):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "iptables", "iproute2"]):
            subprocess.run(["apt-get", "-qq", *command], check=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.fixture
def bare():
    """A network on whose host the Engine has not been started."""
    network = Network()
    deadline = time.monotonic() + 10
    # Links that have just come up may lose the first packets.
    while network.who_reaches() != ["office", "elsewhere"]:
        assert time.monotonic() < deadline
    yield network
    for server in network.servers:
        server.close()
    for namespace in (network.host, network.office, network.elsewhere, network.container):
        os.close(namespace.descriptor)


@pytest.fixture
def network(bare):
    bare.start_engine()
    assert bare.who_reaches() == ["office", "elsewhere"]
    return bare


@pytest.fixture
def guard(bare, run_module, tmp_path):
    """Run the module on the host."""

    def run(*sources: str, **params) -> dict:
        params = {"project": "shop", "sources": list(sources), "ports": PUBLISHED, "directory": str(tmp_path / "sbin"), **params}
        with bare.host.inside():
            return run_module(module, **params)

    return run


@pytest.fixture
def script(tmp_path):
    return tmp_path / "sbin/docker-firewall-shop"


def test_only_who_is_allowed_reaches_a_published_port(network, guard, script):
    answer = guard(OFFICE)
    assert (answer["changed"], answer["script"]) == (True, str(script))
    assert network.who_reaches() == ["office"]
    assert script.stat().st_mode & 0o777 == 0o755
    # Nothing half-made is left.
    assert list(script.parent.iterdir()) == [script]


def test_what_is_not_guarded_is_left_alone(network, guard):
    guard(OFFICE)
    # A port that another project publishes, the container's own requests to the same port elsewhere, and the host's own.
    assert network.who_reaches(port=8081) == ["office", "elsewhere"]
    assert network.container.reaches("203.0.113.10", 8080)
    assert network.host.reaches("10.77.0.10", 80)


def test_several_sources(network, guard):
    guard(OFFICE, "203.0.113.10/32")
    assert network.who_reaches() == ["office", "elsewhere"]
    guard("192.0.2.0/24", "203.0.113.11/32")
    assert network.who_reaches() == []


def test_a_port_is_guarded_on_its_address_only(network, guard):
    guard(OFFICE, ports=[{"address": HOST, "port": 8080}])
    assert (network.who_reaches(HOST), network.who_reaches(SECOND)) == (["office"], ["office", "elsewhere"])


def test_a_second_time_nothing_changes(network, guard, script):
    guard(OFFICE)
    before, written = network.rules(), script.stat().st_mtime_ns
    answer = guard(OFFICE)
    assert (answer["changed"], answer["diff"]["before"]) == (False, answer["diff"]["after"])
    assert (network.rules(), script.stat().st_mtime_ns) == (before, written)


def test_in_check_mode_it_is_reported_and_not_done(network, guard, script):
    before = network.rules()
    answer = guard(OFFICE, check_mode=True)
    assert answer["changed"]
    assert (answer["diff"]["before"], answer["diff"]["after"].splitlines()[0].split(" -p ")[0]) == ("", f"-A {CHAIN} -s {OFFICE}")
    assert not script.parent.exists()
    assert network.rules() == before
    guard(OFFICE)
    installed = network.rules()
    assert guard(check_mode=True)["changed"]
    assert (network.rules(), script.exists(), network.who_reaches()) == (installed, True, ["office"])


def test_changed_sources_replace_the_old_ones(network, guard, script):
    guard(OFFICE)
    answer = guard(ELSEWHERE)
    assert answer["changed"]
    assert OFFICE in answer["diff"]["before"]
    assert OFFICE not in answer["diff"]["after"] + network.rules() + script.read_text()
    assert network.who_reaches() == ["elsewhere"]


def test_without_sources_all_of_it_goes(network, guard, script):
    before = network.rules()
    guard(OFFICE)
    assert guard()["changed"]
    assert (network.rules(), script.exists(), network.who_reaches()) == (before, False, ["office", "elsewhere"])
    assert not guard()["changed"]


def test_rules_of_others_stay(network, guard):
    guard(OFFICE, project="other", ports=[{"address": "0.0.0.0", "port": 8081}])
    network.host.run("iptables", "-A", "DOCKER-USER", "-s", "192.0.2.9/32", "-j", "DROP")
    before = network.rules()
    guard(OFFICE)
    assert set(before.splitlines()) < set(network.rules().splitlines())
    guard()
    assert network.rules() == before
    assert network.who_reaches(port=8081) == ["office"]


@pytest.mark.parametrize("damage", [["-F", CHAIN], ["-D", "DOCKER-USER", "-j", CHAIN], ["-I", CHAIN, "-j", "RETURN"]])
def test_rules_that_were_damaged_are_repaired(network, guard, damage):
    guard(OFFICE)
    network.host.run("iptables", *damage)
    assert network.who_reaches() == ["office", "elsewhere"]
    assert guard(OFFICE)["changed"]
    assert network.who_reaches() == ["office"]
    assert not guard(OFFICE)["changed"]


def test_a_script_that_was_lost_or_changed_is_written_again(guard, script):
    guard(OFFICE)
    text = script.read_text()
    script.unlink()
    assert guard(OFFICE)["changed"]
    script.write_text("#!/bin/sh\n")
    assert guard(OFFICE)["changed"]
    assert script.read_text() == text


def test_what_is_left_of_an_installation_is_removed(network, guard, script):
    before = network.rules()
    guard(OFFICE)
    # As after a person ran its last line by hand.
    network.host.run("iptables", "-I", "DOCKER-USER", "-j", CHAIN)
    assert guard()["changed"]
    assert network.rules() == before
    script.write_text("")
    assert guard()["changed"]
    assert not script.exists()


def test_the_script_guards_the_ports_before_the_engine_starts(bare, guard, script):
    guard(OFFICE)
    # As after a restart of the machine: no rule is left, and the Engine is not there yet.
    bare.host.run("iptables", "-F")
    bare.host.run("iptables", "-X")
    assert "DOCKER" not in bare.rules()
    bare.host.run(str(script))
    bare.start_engine()
    assert bare.who_reaches() == ["office"]
    rules = bare.rules()
    bare.host.run(str(script))
    assert bare.rules() == rules
    assert not guard(OFFICE)["changed"]


@pytest.mark.parametrize(
    "params",
    [
        {"sources": ["198.51.100.1/24"]},
        {"sources": ["2001:db8::/32"]},
        {"sources": ["office"]},
        {"ports": [{"address": "::", "port": 1}]},
        {"ports": [{"address": HOST, "port": 65536}]},
        {"ports": [{"address": HOST, "port": 0}]},
    ],
)
def test_what_is_not_a_network_address_or_port_is_refused_and_nothing_changes(network, guard, script, params):
    guard(OFFICE)
    rules, text = network.rules(), script.read_text()
    answer = guard(**{"sources": [OFFICE], **params})
    assert answer["failed"]
    assert "sources must be IPv4 networks such as 192.0.2.0/24" in answer["msg"]
    assert (network.rules(), script.read_text()) == (rules, text)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Have a command fail where its arguments match a shell pattern."""

    def break_(name: str, pattern: str) -> None:
        real = shutil.which(name)
        wrapper = tmp_path / "bin" / name
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\ncase "$*" in {pattern}) echo "no such match" >&2; exit 1 ;; esac\nexec {real} "$@"\n')
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")

    return break_


def test_rules_that_cannot_be_installed_leave_no_script(network, guard, script, broken):
    guard(OFFICE)
    rules, text = network.rules(), script.read_text()
    broken("iptables-restore", "*")
    answer = guard(ELSEWHERE)
    assert answer["failed"]
    expected = "The rules could not be installed: no such match. The kernel needs the conntrack match, and the host the package iptables."
    assert answer["msg"] == expected
    # The Engine would not start behind it.
    assert (network.rules(), script.read_text(), list(script.parent.iterdir())) == (rules, text, [script])


def test_rules_that_cannot_be_removed_are_reported(guard, script, broken):
    guard(OFFICE)
    broken("iptables", "*-D*")
    answer = guard()
    assert answer["failed"]
    assert answer["msg"] == f"The chain {CHAIN} is still there. Look at it with: iptables -S"
    assert script.exists()


def test_a_host_without_iptables_is_reported(guard, script, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    answer = guard(OFFICE)
    assert answer["failed"]
    assert "the host the package iptables" in answer["msg"]
    assert not script.exists()
    # And where nothing is to be guarded, nothing is missing.
    assert not guard()["changed"]


def test_a_chain_that_somebody_else_uses_is_not_forgotten(network, guard, script):
    guard(OFFICE)
    network.host.run("iptables", "-A", "FORWARD", "-j", CHAIN)
    # Emptied it can be; it is the way of the stack's own that must be gone.
    assert guard()["changed"]
    assert not script.exists()
    assert not guard()["changed"]
