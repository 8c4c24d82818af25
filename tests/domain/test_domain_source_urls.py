"""URLs of sources: any text from a caller is parsed into the parts of a request, or refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgstore.domain.disks.source_urls import parse_source_url, redact_location, split_uri
from imgstore.domain.errors import InvalidInput

BROKEN = [
    "",
    "x",
    "https:",
    "https://",
    "https:///x",
    "https://[/x",
    "https://[::1/x",
    "https://[::1%]/x",
    "https://[fe80::1%25eth0]/x",
    "https://[v1.x]/",
    "https://a..b/x",
    "https://.example/x",
    f"https://{'a' * 64}.com/x",
    f"https://{'a.' * 127}com/x",
    "https://a b/x",
    "https://a%00b/x",
    "https://-a/x",
    "https://a:0/x",
    "https://a:65536/x",
    "https://a:x/x",
    "https://a:-1/x",
    f"https://a:{'9' * 5_000}/x",
    "https://a\0b/x",
    "https://a/x\ny",
    "https://a\u2100b/x",
    f"https://{'ä' * 60}/x",
    "https://xn--/\ud800",
    "file:///etc/passwd",
    "s3://bucket/key",
    f"https://a/{'x' * 9_000}",
]


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: ascii(text[:24]))
def test_invalid_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a URL that can be read"):
        parse_source_url(text)


def test_url_is_split_into_parts() -> None:
    url = parse_source_url("HTTPS://User:pä@Bücher.Example.:8443/a b/[ü]?sig=a%2Fb+c&x=[1]#f")
    assert (url.scheme, url.host, url.port) == ("https", "xn--bcher-kva.example", 8443)
    assert url.host_header == "xn--bcher-kva.example:8443"
    assert url.target == "/a%20b/%5B%C3%BC%5D?sig=a%2Fb+c&x=%5B1%5D"
    assert url.authorization == "Basic dXNlcjpww6Q=".replace("dXNl", "VXNl")


@pytest.mark.parametrize(
    ("text", "host", "port", "header"),
    [
        ("https://[::1]/x", "::1", 443, "[::1]"),
        ("http://127.0.0.1", "127.0.0.1", 80, "127.0.0.1"),
        ("https://a_b.c:443/", "a_b.c", 443, "a_b.c:443"),
    ],
)
def test_hosts(text: str, host: str, port: int, header: str) -> None:
    url = parse_source_url(text)
    assert (url.host, url.port, url.host_header, url.authorization) == (host, port, header, None)


@example("https://[\ud800/x?secret")
@given(st.text(st.characters(exclude_categories=()), max_size=30).map(lambda rest: f"https://{rest}"))
def test_any_text_is_parsed_or_refused_and_shown_without_query(text: str) -> None:
    assert "?" not in redact_location(text)
    try:
        url = parse_source_url(text)
    except InvalidInput:
        return
    assert (url.host + url.host_header + url.target).isascii()
    assert 0 < url.port < 65_536
    assert url.target.startswith("/")


@pytest.mark.parametrize("text", ["https://[x", "s3://[x/y"])
def test_invalid_uri_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        split_uri(text)


def test_path_with_bracket_is_a_path() -> None:
    assert split_uri("//[x").path == "//[x"
