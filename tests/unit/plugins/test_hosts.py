# SPDX-License-Identifier: GPL-3.0-or-later
"""What is concluded from the facts of a host: whose things are, and which data an image can open."""

import pytest
from ansible_collections.campaign.platform.plugins.plugin_utils import hosts


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (None, []),
        ({}, []),
        ({"18/docker/PG_VERSION": "18"}, []),
        # An upgrade leaves the old one beside it.
        ({"18/docker/PG_VERSION": "18", "17/docker/PG_VERSION": "17"}, []),
        ({"17/docker/PG_VERSION": "17"}, ["17 (17/docker)"]),
        ({"PG_VERSION": "16"}, ["16 (at its top)"]),
        ({"data/PG_VERSION": "15"}, ["15 (data)"]),
        ({"pgdata/PG_VERSION": "17"}, ["17 (pgdata)"]),
        # The image does not look there, and would start an empty one.
        ({"PG_VERSION": "18"}, ["18 (at its top)"]),
        ({"18/docker/PG_VERSION": "17"}, ["17 (18/docker)"]),
        # A first start that was killed in its middle. The next one begins anew, as long as it is of the same major.
        ({"18/docker.making/PG_VERSION": "18"}, []),
        ({"17/docker.making/PG_VERSION": "17"}, ["17 (17/docker.making)"]),
        ({"18/docker.making/PG_VERSION": "18", "PG_VERSION": "16"}, ["16 (at its top)"]),
    ],
)
def test_data_that_the_image_would_not_find_is_told_with_its_place(files, told):
    assert hosts.data_of_another_major(files, "18", "18/docker") == told


@pytest.mark.parametrize("place", ["pgdata", "."])
def test_data_is_the_server_s_own_where_the_release_tells_it_to_look(place):
    path = "PG_VERSION" if place == "." else f"{place}/PG_VERSION"
    assert hosts.data_of_another_major({path: "18", "base/5/PG_VERSION": "18"}, "18", place) == []
    assert hosts.data_of_another_major({path: "17"}, "18", place) == [f"17 ({'at its top' if place == '.' else place})"]
    assert hosts.data_of_another_major({"18/docker/PG_VERSION": "18"}, "18", place) == ["18 (18/docker)"]


def test_what_belongs_to_somebody_else_is_told_with_the_owner():
    found = {"p_a": {"project": "p"}, "p_b": {"project": None}, "p_c": {"project": "q"}, "p_d": {"project": "q"}}
    assert hosts.not_of_the_project(found, ["p_a", "p_b", "p_c", "p_e"], "p") == {"p_b": "no Compose project", "p_c": "the Compose project q"}
    # Somebody gave the release that name.
    assert hosts.not_of_the_project({"old": {"project": None}}, ["old"], "p") == {}


def test_addresses_that_are_not_there_are_told_once():
    rows = [{"address": "192.0.2.1", "local": False}, {"address": "192.0.2.1", "local": False}, {"address": "127.0.0.1", "local": True}]
    assert hosts.away({"ports": rows}) == ["192.0.2.1"]


def test_a_distribution_is_named_with_its_version():
    assert hosts.release_of({"distribution": {"id": "debian", "version_id": "13"}}) == "debian 13"
