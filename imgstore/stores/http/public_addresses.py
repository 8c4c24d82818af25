"""Decides whether an address belongs to the public internet (invariant U4)."""

import ipaddress
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], list[str]]
"""Returns the addresses of a name."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All global unicast addresses of IANA: https://www.iana.org/assignments/ipv6-address-space."""


def resolve(host: str, port: int) -> list[str]:
    """Resolve a name with the system's resolver, in its order of preference."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(text: str) -> bool:
    """Return whether an address belongs to the public internet.

    Loopback, private, link-local, reserved and multicast addresses do not, and neither do IPv6 addresses that contain
    such an IPv4 address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    inner = _embedded_ipv4(address)
    if inner is not None:
        return is_public(str(inner))
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _embedded_ipv4(address: Address) -> Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
