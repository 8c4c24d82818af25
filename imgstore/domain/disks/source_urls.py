"""URLs of disk images over HTTP. The URLs come from untrusted callers, so a single place parses all URLs."""

import base64
import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

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


def split_uri(uri: str) -> SplitResult:
    """Split a URI into parts, or return a path as a path only.

    Raises:
        InvalidInput: the text is neither.
    """
    try:
        return urlsplit(uri)
    except ValueError as error:
        if "://" not in uri:  # such as the path //[x
            return SplitResult("", "", uri, "", "")
        raise InvalidInput(
            f"'{redact_location(uri)[:200]}' is not a URL that can be read.",
            found=str(error),
            expected="a path, file://, s3://bucket/key or https://",
            hint="remove misplaced brackets",
            target="osVhdUri",
        ) from error


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
