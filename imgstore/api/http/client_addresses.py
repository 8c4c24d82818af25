"""Determine the address and the scheme of a client behind trusted proxies. Pure."""

import ipaddress
from collections.abc import Sequence
from typing import Final, TypeAlias

from imgstore.domain.errors import InvalidInput

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOPS_MAX: Final = 32
"""The number of addresses of a header that are read, from the right."""
_IPV6_PREFIX: Final = 64
"""A single client usually controls a whole /64 network."""


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse the networks of trusted proxies, such as ``10.0.0.0/8`` or ``::1``.

    Raises:
        InvalidInput: a text is no network. The error's target is ``trusted-proxy``.
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
    """Return whether an address belongs to a trusted proxy. Return False for a text that is no address."""
    found = _address(address)
    return found is not None and any(found in network for network in trusted)


def address_group(address: str) -> str:
    """Return the key of an address in limits: the IPv4 address, or the /64 network of an IPv6 address."""
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
        scheme: the scheme of the connection.
        headers: the headers of the request, with names in lower case.
        trusted: the networks of trusted proxies. Only headers from these networks count. The function reads
            ``Forwarded`` (RFC 7239) if present, else ``X-Forwarded-For`` and ``X-Forwarded-Proto``. The client has the
            first address from the right that is no trusted proxy. A client can forge the addresses to the left.
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
    forwarded_scheme = schemes[-1].lower() if schemes else ""
    return client, forwarded_scheme if forwarded_scheme in ("http", "https") else scheme


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Return the values of all lines of a list header."""
    lines = [value.decode("latin-1") for key, value in headers if key == name]
    return [each.strip() for line in lines for each in line.split(",") if each.strip()]


def _forwarded_pairs(hop: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in hop.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address, with or without brackets and port. Return an IPv4-mapped IPv6 address as IPv4."""
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
