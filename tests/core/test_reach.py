"""Where messages may go: what is public, what is allowed, and what only looks so."""

from __future__ import annotations

import pytest

from apps.core.reach import Internal, may_reach, read_internal

NOBODY = Internal()
ANY = "0.0.0.0"  # noqa: S104 -- never bound


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "2606:4700::1111"]
)
def test_the_public_internet_is_reached(address):
    assert may_reach(address, NOBODY)
    assert may_reach("::ffff:8.8.8.8", NOBODY)
    assert may_reach("64:ff9b::808:808", NOBODY)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", ANY, "10.0.0.1", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.192", "198.18.0.1"),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.9"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::7f00:1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1"),
        *("100::1", "5f00::1", "localhost", "example.com", "", "127.1", "2130706433"),
    ],
)
def test_what_is_not_public_is_not_reached(address):
    assert not may_reach(address, NOBODY)
    assert not may_reach(address, read_internal("10.9.0.0/16, hooks.internal"))


def test_what_is_allowed_is_reached_and_nothing_beside_it():
    internal = read_internal(" 10.1.0.0/16,fd00:1::/64 , 127.0.0.2,Hooks.Internal.")

    assert internal == Internal(("10.1.0.0/16", "fd00:1::/64", "127.0.0.2/32"), ("hooks.internal",))
    assert may_reach("10.1.2.3", internal)
    assert may_reach("::ffff:10.1.2.3", internal)
    assert may_reach("fd00:1::7", internal)
    assert may_reach("127.0.0.2", internal)
    assert not may_reach("10.2.0.1", internal)
    assert not may_reach("127.0.0.3", internal)
    assert may_reach("10.2.0.1", internal, name="hooks.internal")
    assert may_reach("127.0.0.1", internal, name="HOOKS.internal.")
    assert not may_reach("10.2.0.1", internal, name="other.internal")
    assert not may_reach("10.2.0.1", internal, name="x.hooks.internal")


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "224.0.0.1", ANY, "::"])
def test_no_name_leads_to_the_metadata_of_a_cloud(address):
    assert not may_reach(address, read_internal("hooks.internal"), name="hooks.internal")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/99", "a b", "http://x", "300.1.2.3", "*"])
def test_what_is_neither_network_nor_name_is_refused(text):
    with pytest.raises(ValueError, match="is neither a network such as"):
        read_internal(f"10.1.0.0/16,{text}")
