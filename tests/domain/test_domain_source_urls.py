"""URLs of sources: any text from a caller is parsed into the parts of a request, or refused."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgstore.domain.disks.source_urls import S3Location, parse_location, parse_source_url, redact_location
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


NO_LOCATION = [
    *("s3://[x/y", "s3:", "s3://", "s3://b", "s3://bucket", "s3://bucket/", "s3:///key", "s3:bucket/key", "s3://b?/k", "s3://b#c/k"),
    *("s3://bucket/\ud800", "s3://bucket/\0", f"s3://bucket/{'ä' * 513}"),
    *("file://[/x", "file://host/x", "file://x", "file:///a#1.raw", "file:///a?.raw"),
    *("ftp://host/x", "gs://bucket/key"),
]  # fmt: skip


@pytest.mark.parametrize("text", NO_LOCATION, ids=lambda text: ascii(text[:24]))
def test_text_that_is_no_location_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_location(text)
    assert raised.value.hint


@pytest.mark.parametrize("text", ["//[x", "a b#?%20.raw", "a:b", "x/s3://y", "é", "~/a"])
def test_other_texts_are_paths(text: str) -> None:
    assert parse_location(text) == Path(text)


@pytest.mark.parametrize("text", ["file:/a%20b%25", "file:///a%20b%25", "FILE://localhost/a%20b%25"])
def test_file_url_is_decoded(text: str) -> None:
    assert parse_location(text) == Path("/a b%")


@example("//a/../%2F#1?versionId=2 +\n")
@example("a%20b.raw")
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100))
def test_key_is_literal_and_reads_back(key: str) -> None:
    """Invariant U7."""
    location = parse_location(f"s3://bucket/{key}")
    assert location == S3Location("bucket", key)
    assert parse_location(str(location)) == location
