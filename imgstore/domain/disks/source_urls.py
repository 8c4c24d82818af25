"""Paths and URLs of disk images. The texts come from untrusted callers, so a single place parses them."""

import base64
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes, urlsplit

from imgstore.domain.errors import InvalidInput

URL_CHARACTERS_MAX: Final = 8_192
"""A signed URL with a session token has about 2,000 characters."""

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_HOST_CHARACTERS_MAX: Final = 253
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE: Final = _PATH_SAFE + "?"
_HTTP: Final = re.compile(r"\s*(https?)://(?:[^/?#]*@)?([^?#]*)", re.IGNORECASE)
_SCHEME: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_KEY_BYTES_MAX: Final = 1_024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUrl:
    """The parts of an HTTP URL for a request, all ASCII."""

    scheme: str
    """``https`` or ``http``."""
    host: str
    """A name, or an address without brackets."""
    port: int
    host_header: str
    """The host, with the port if the URL names a port."""
    target: str
    """The path and the query of the request line."""
    authorization: str | None
    """The header for the name and password in the URL."""

    @property
    def place(self) -> tuple[str, str, int, str]:
        """The URL without credentials and query, which may contain a signature."""
        return self.scheme, self.host, self.port, self.target.partition("?")[0]


def parse_source_url(text: str) -> SourceUrl:
    """Parse the URL of a disk image.

    Raises:
        InvalidInput: the text is not an HTTP URL with a possible host. The error shows the URL without secrets.
    """
    try:
        return _parse(text)
    except ValueError as error:
        raise InvalidInput(
            f"'{redact_location(text)[:200]}' is not a URL that can be read.",
            found=str(error)[:200],
            expected="https://host/path",
            hint="give the https URL of the file",
        ) from None


def redact_location(location: str) -> str:
    """Return a source location for display: an HTTP URL without name, password and query, which may grant access.

    Other locations are returned unchanged. This function never fails.
    """
    match = _HTTP.match(location)
    return f"{match[1].lower()}://{match[2]}" if match else location


@dataclass(frozen=True, slots=True)
class S3Location:
    """An object in a bucket."""

    bucket: str
    key: str
    """The text after the bucket, unchanged: `#`, `?`, `%` and further slashes belong to the key (invariant U7)."""

    def __str__(self) -> str:
        """Return the URL. `parse_location` returns the same object for the URL."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class WebLocation:
    """An HTTP URL that is not parsed yet."""

    url: str


Location: TypeAlias = Path | WebLocation | S3Location
"""The place of a disk image."""


def parse_location(text: str) -> Location:
    """Parse the path or URL of a disk image.

    Raises:
        InvalidInput: the text is neither, or the scheme of the URL is not supported.
    """
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if match and scheme in _DEFAULT_PORTS:
        return WebLocation(text)
    try:
        if match and scheme == "s3":
            return _parse_s3(text[match.end() :] if match[2] else "")
        if match and scheme == "file":
            return _parse_file(text[match.end(1) + 1 :])
    except ValueError as error:
        raise InvalidInput(
            f"'{text[:200]}' is not a URL that can be read.",
            found=str(error),
            expected="s3://bucket/key, where the key is not encoded" if scheme == "s3" else "file:///path",
            hint="name the bucket and the object"
            if scheme == "s3"
            else "give the path without file://, or write %23 for # and %3F for ?",
            target="osVhdUri",
        ) from None
    if match and match[2]:
        raise InvalidInput(
            f"The scheme '{scheme}' of the source is not supported.",
            found=text,
            expected="a path, file://, s3://bucket/key or https://",
            hint="download the file first, then name the path",
            target="osVhdUri",
        )
    return Path(text)


def _parse_s3(rest: str) -> S3Location:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"'{bucket[:80]}' as the name of a bucket")
    key_bytes = len(key.encode())  # UnicodeEncodeError is a ValueError
    if not 0 < key_bytes <= _KEY_BYTES_MAX or "\0" in key:
        raise ValueError(f"a key of {key_bytes} bytes" if "\0" not in key else "a key with a null character")
    return S3Location(bucket, key)


def _parse_file(rest: str) -> Path:
    if "#" in rest or "?" in rest:
        raise ValueError("a # or a ? that is not encoded")
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in {"", "localhost"} or not slash:
            raise ValueError(f"the host '{host[:80]}', or no path")
        rest = slash + path
    return Path(os.fsdecode(unquote_to_bytes(rest)))


def _parse(text: str) -> SourceUrl:
    if len(text) > URL_CHARACTERS_MAX:
        raise ValueError(f"{len(text)} characters, more than {URL_CHARACTERS_MAX}")
    if _CONTROL.search(text):
        raise ValueError("a control character")
    parts = urlsplit(text.strip())
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"the scheme '{scheme[:20]}'")
    host = _address(parts.hostname or "") if "[" in parts.netloc else _name(parts.hostname or "")
    named_port = parts.port
    if named_port == 0:
        raise ValueError("the port 0")
    bracketed = f"[{host}]" if ":" in host else host
    query = f"?{quote(parts.query, safe=_QUERY_SAFE)}" if parts.query else ""
    authorization = None
    if parts.username is not None:
        pair = f"{parts.username}:{parts.password or ''}".encode()
        authorization = f"Basic {base64.b64encode(pair).decode()}"
    return SourceUrl(
        scheme=scheme,
        host=host,
        port=named_port or _DEFAULT_PORTS[scheme],
        host_header=bracketed if named_port is None else f"{bracketed}:{named_port}",
        target=quote(parts.path or "/", safe=_PATH_SAFE) + query,
        authorization=authorization,
    )


def _address(text: str) -> str:
    """Return the IPv6 address between brackets. A zone is rejected, because a zone is valid on one machine only."""
    if "%" in text:
        raise ValueError("an address with a zone")
    return str(ipaddress.IPv6Address(text))


def _name(text: str) -> str:
    """Return the host in ASCII: labels of 1 to 63 characters, separated by dots."""
    try:
        host = text.removesuffix(".") if text.isascii() else text.removesuffix(".").encode("idna").decode()
    except UnicodeError:
        host = ""
    if len(host) > _HOST_CHARACTERS_MAX or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError(f"the host '{text[:80]}'")
    return host
