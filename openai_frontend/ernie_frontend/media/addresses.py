"""Which addresses media may be fetched from: public ones, or with the operator's consent private ones.

Of IPv6 only what is assigned as global unicast counts as public, since Python's ``is_global`` also accepts what
is not assigned at all. Addresses that carry an IPv4 address are judged by that one if a network really uses
them (mapped, NAT64), and refused if they are history (6to4, Teredo).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

_PRIVATE = tuple(
    map(
        ip_network,
        (
            *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
            *("::1/128", "fc00::/7"),
        ),
    )
)
_GLOBAL_UNICAST = ip_network("2000::/3")
_NOT_PUBLIC = tuple(map(ip_network, ("192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64 = ip_network("64:ff9b::/96")
_METADATA = frozenset(
    map(ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
"""Of cloud providers, apart from the link-local ones: they give credentials to whoever asks."""


def may_fetch_from(text: str, *, allow_private: bool) -> bool:
    """Return whether media may be fetched from an address.

    Args:
        text: the address, as the resolver wrote it.
        allow_private: private and loopback addresses are allowed, too. Link-local ones, where clouds have
            their metadata, and those of other clouds' metadata never are.
    """
    address = _effective(ip_address(text))
    if address in _METADATA:
        return False
    if any(address in network for network in _PRIVATE):
        return allow_private
    return _is_public(address)


def is_address(host: str) -> bool:
    """Return whether a URL's host is an address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if address.is_multicast or address.is_reserved or address.is_link_local or address.is_unspecified:
        return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)


def _effective(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
