"""The address and the scheme of a client, behind proxies that are trusted. Pure."""

import ipaddress
from collections.abc import Sequence
from typing import Final, TypeAlias

from imgstore.domain.errors import InvalidInput

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOPS_MAX: Final = 32
"""Addresses of one header that are looked at, from the right."""
_IPV6_PREFIX: Final = 64
"""One client has a whole /64 of IPv6."""


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Read networks of trusted proxies: ``10.0.0.0/8``, ``::1``.

    Raises:
        InvalidInput: a text is no network; its target is ``trusted-proxy``.
    """
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise InvalidInput(
            "A trusted proxy can't be used.",
            found=str(error),
            expected="an address or a network, such as 10.0.0.0/8",
            hint="give --trusted-proxy once for each network",
            target="trusted-proxy",
        ) from error


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Tell whether an address is a trusted proxy's. What is no address is not."""
    found = _address(address)
    return found is not None and any(found in network for network in trusted)


def address_group(address: str) -> str:
    """Return what an address is counted under: itself, or its /64 network of IPv6."""
    found = _address(address)
    if found is None:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _IPV6_PREFIX), strict=False))
    return str(found)


def find_client(
    peer: str, scheme: str, headers: Sequence[tuple[bytes, bytes]], trusted: Sequence[Network]
) -> tuple[str, str]:
    """Return the address and the scheme of a request's client.

    Args:
        peer: the address at the other end of the connection.
        scheme: of the connection.
        headers: of the request, names in lower case.
        trusted: proxies whose headers are believed. ``Forwarded`` (RFC 7239) is read where it is there, else
            ``X-Forwarded-For`` and ``X-Forwarded-Proto``. From the right, the first address that is not a trusted
            proxy's is the client's: what stands left of it, the client may have written.
    """
    if not trusted or not is_trusted(peer, trusted):
        return peer, scheme
    forwarded = _values(headers, b"forwarded")
    if forwarded:
        hops = [_forwarded_pairs(hop) for hop in forwarded[-_HOPS_MAX:]]
        addresses = [hop.get("for", "") for hop in hops]
        schemes = [hop.get("proto", "") for hop in hops]
    else:
        addresses = _values(headers, b"x-forwarded-for")[-_HOPS_MAX:]
        schemes = _values(headers, b"x-forwarded-proto")
    client = peer
    for text in reversed(addresses):
        found = _address(text)
        if found is None:
            break
        client = str(found)
        if not is_trusted(client, trusted):
            break
    said = schemes[-1].lower() if schemes else ""
    return client, said if said in ("http", "https") else scheme


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """The values of a header that is a list, all of its lines together."""
    lines = [value.decode("latin-1") for key, value in headers if key == name]
    return [each.strip() for line in lines for each in line.split(",") if each.strip()]


def _forwarded_pairs(hop: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in hop.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, with a port or brackets that a proxy may add. IPv4 within IPv6 is IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
