# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that let only given sources reach published ports."""

import re

import pytest
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
def test_what_is_no_network_is_refused(source):
    with pytest.raises(ValueError, match=r".+"):
        wanted_rules("STACK-x", [source], PORTS)


@pytest.mark.parametrize("project", ["campaign", "a" * 22, "a" * 23, "a" * 63])
def test_a_chain_has_a_name_that_iptables_takes(project):
    assert len(chain_of(project)) <= 28


def test_long_projects_do_not_share_a_chain():
    assert chain_of("a" * 40) != chain_of("a" * 41)


def test_the_script_replaces_the_chain_at_once_and_touches_nobody_else_s_rules():
    text = script_text("STACK-x", ["-A STACK-x -j DROP"])
    assert "iptables-restore --wait --noflush" in text
    # A chain that is declared is flushed: that is for the stack's own only.
    assert re.findall(r"^:(\S+)", text, re.MULTILINE) == ["STACK-x"]
