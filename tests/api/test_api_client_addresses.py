"""Test the address of a client behind trusted and untrusted proxies."""

import pytest

from imgstore.api.http.client_addresses import address_group, find_client, parse_networks
from imgstore.domain.errors import InvalidInput

TRUSTED = parse_networks(["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("192.0.2.1", {"x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "https"}, ("192.0.2.1", "http")),
        ("10.0.0.1", {}, ("10.0.0.1", "http")),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.7"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"x-forwarded-for": "1.1.1.1, 198.51.100.7, 10.0.0.2"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"x-forwarded-for": "10.0.0.3, 10.0.0.2"}, ("10.0.0.3", "http")),
        ("10.0.0.1", {"x-forwarded-for": "junk, 10.0.0.2"}, ("10.0.0.2", "http")),
        ("::1", {"x-forwarded-for": "198.51.100.7:443", "x-forwarded-proto": "https"}, ("198.51.100.7", "https")),
        ("::1", {"x-forwarded-proto": "gopher"}, ("::1", "http")),
        ("::ffff:10.0.0.1", {"x-forwarded-for": "198.51.100.7"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"forwarded": 'for="[2001:db8::17]:4711";proto=https;by=x'}, ("2001:db8::17", "https")),
        ("10.0.0.1", {"forwarded": "for=1.2.3.4, for=10.0.0.9", "x-forwarded-for": "5.5.5.5"}, ("1.2.3.4", "http")),
        ("10.0.0.1", {"forwarded": "for=_hidden"}, ("10.0.0.1", "http")),
    ],
)
def test_client_is_the_first_address_that_is_no_trusted_proxy(
    peer: str, headers: dict[str, str], expected: tuple[str, str]
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert find_client(peer, "http", raw, TRUSTED) == expected


def test_ipv6_network_counts_as_one_client() -> None:
    assert address_group("2001:db8::1") == address_group("2001:db8::2") == "2001:db8::/64"
    assert address_group("::ffff:192.0.2.1") == address_group("192.0.2.1") == "192.0.2.1"


def test_invalid_network_is_refused() -> None:
    with pytest.raises(InvalidInput, match="trusted proxy") as caught:
        parse_networks(["10.0.0.1/8"])
    assert caught.value.target == "trusted-proxy"
