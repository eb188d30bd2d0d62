"""Which addresses count as one party."""

from __future__ import annotations

import pytest

from lattica.transport import Multiaddr, ip_group, wider_group


def group(text: str) -> bytes | None:
    return ip_group(Multiaddr.parse(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.250/tcp/2"),
        ("/ip6/2a01:4f8:1:2::1/tcp/1", "/ip6/2a01:4f8:1:ffff::9/tcp/1"),
        ("/ip4/1.2.3.4/tcp/1", "/ip6/::ffff:1.2.3.9/tcp/1"),
        ("/ip4/1.2.3.4/tcp/1", "/ip6/64:ff9b::102:309/tcp/1"),
        ("/ip4/1.2.3.4/tcp/1", "/ip6/2002:102:309::1/tcp/1"),
        (
            "/ip4/1.2.3.4/tcp/1",
            "/ip4/1.2.3.4/tcp/1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X/p2p-circuit",
        ),
    ],
    ids=["ip4", "ip6", "mapped", "nat64", "6to4", "relayed"],
)
def test_addresses_of_one_customer_are_one_group(one: str, other: str) -> None:
    assert group(one) is not None
    assert group(one) == group(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.4.4/tcp/1"),
        ("/ip6/2a01:4f8:1::1/tcp/1", "/ip6/2a01:4f8:2::1/tcp/1"),
    ],
)
def test_neighbours_are_other_groups_of_one_wider_group(one: str, other: str) -> None:
    here, there = group(one), group(other)
    assert here is not None
    assert there is not None
    assert here != there
    assert wider_group(here) == wider_group(there)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/192.168.1.7/tcp/1",
        "/ip4/10.0.0.1/tcp/1",
        "/ip6/::1/tcp/1",
        "/ip6/fd00::1/tcp/1",
        "/memory/7",
        "/dns4/example.org/tcp/1",
    ],
)
def test_where_identities_cost_nobody_anything_or_nothing_is_known_there_is_no_group(
    text: str,
) -> None:
    assert group(text) is None


def test_whoever_comes_through_a_relay_is_in_its_group_however_little_is_said_of_it() -> None:
    relay = "/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X/p2p-circuit"
    named, unnamed = group(relay), group("/p2p-circuit")
    assert named is not None
    assert unnamed is not None
    assert wider_group(named) == named != unnamed
