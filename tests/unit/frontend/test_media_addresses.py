"""Which addresses media may come from: each range that is not the public internet is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_frontend.media.addresses import may_fetch_from

PUBLIC = ("93.184.215.14", "1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:82b::200e")
PRIVATE = (
    *("127.0.0.1", "127.255.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *(
        "::1",
        "fc00::1",
        "fd12:3456::1",
        "::ffff:127.0.0.1",
        "::ffff:10.1.2.3",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
    ),
)
NEVER = (
    # This network, link-local (metadata), documentation, benchmarks, relays, multicast, reserved, broadcast.
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
    *("192.0.0.1", "198.18.0.1", "192.88.99.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    # Metadata elsewhere.
    *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"),
    # The same of IPv6: unspecified, compatible, translated, discard, Teredo, documentation, 6to4, site-local.
    *(
        "::",
        "::8.8.8.8",
        "::7f00:1",
        "::ffff:0:8.8.8.8",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::1",
        "2001:db8::1",
    ),
    *(
        "2002:7f00:1::1",
        "2002:808:808::1",
        "3fff::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ),
    *("::ffff:169.254.169.254", "::ffff:0.0.0.0", "64:ff9b::a9fe:a9fe", "4000::1", "5f00::1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert may_fetch_from(address, allow_private=False)
    assert may_fetch_from(address, allow_private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_the_operators_choice(address: str) -> None:
    assert not may_fetch_from(address, allow_private=False)
    assert may_fetch_from(address, allow_private=True)


@pytest.mark.parametrize("address", NEVER)
def test_other_addresses_never_are(address: str) -> None:
    assert not may_fetch_from(address, allow_private=False)
    assert not may_fetch_from(address, allow_private=True)


@given(number=st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_judged_alike_in_all_of_its_forms(number: int) -> None:
    address = IPv4Address(number)
    mapped, translated = IPv6Address((0xFFFF << 32) | number), IPv6Address((0x64FF9B << 96) | number)
    for allow_private in (False, True):
        verdict = may_fetch_from(str(address), allow_private=allow_private)
        assert may_fetch_from(str(mapped), allow_private=allow_private) == verdict
        assert may_fetch_from(str(translated), allow_private=allow_private) == verdict
    if not address.is_global:
        assert not may_fetch_from(str(address), allow_private=False)


@given(number=st.integers(0, 2**128 - 1))
def test_no_private_ipv6_address_is_public(number: int) -> None:
    address = IPv6Address(number)
    if may_fetch_from(str(address), allow_private=False):
        assert address.is_global
        assert not address.is_multicast
