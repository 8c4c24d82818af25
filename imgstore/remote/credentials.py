"""Which server is asked, whom it can be trusted by, and who asks: all from the line and the environment."""

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from imgstore.domain.errors import InvalidInput, Unauthenticated
from imgstore.domain.strict_json import check_text

_APPLICATION: Final = ("IMGSTORE_TENANT_ID", "IMGSTORE_CLIENT_ID", "IMGSTORE_CLIENT_SECRET")
_ROOTS: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A token that somebody else has given."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A service principal, which gets its tokens itself."""

    tenant_id: str
    client_id: str
    client_secret: str = field(repr=False)


Credentials: TypeAlias = Bearer | Application


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server, as it is asked."""

    url: str
    """Scheme, host and port."""
    credentials: Credentials
    authorities: Path | None = None
    """Certificates to trust, a file or a folder; None are the system's."""
    subscription: str | None = None
    """None is the only one that the caller sees."""


def read_address(
    server: str, *, authorities: Path | None, subscription: str | None, environ: Mapping[str, str]
) -> Address:
    """The server that is named, with what the environment says besides.

    Args:
        server: its URL.
        authorities: certificates to trust; None are those that the environment names, else the system's.
        subscription: its id; None is what the environment names, if it does.
        environ: ``IMGSTORE_TOKEN``, or ``IMGSTORE_TENANT_ID``, ``IMGSTORE_CLIENT_ID`` and ``IMGSTORE_CLIENT_SECRET``;
            ``REQUESTS_CA_BUNDLE`` or ``SSL_CERT_FILE``; ``IMGSTORE_SUBSCRIPTION_ID``.

    Raises:
        InvalidInput: no server is at such a URL.
        Unauthenticated: nobody asks.
    """
    named = next(filter(None, (environ.get(name) for name in _ROOTS)), None)
    return Address(
        url=_check_server_url(server),
        credentials=_credentials(environ),
        authorities=authorities or (Path(named) if named else None),
        subscription=subscription or environ.get("IMGSTORE_SUBSCRIPTION_ID") or None,
    )


def create_tls_context(authorities: Path | None) -> ssl.SSLContext:
    """What a server's certificate is checked with.

    Raises:
        InvalidInput: there are no certificates.
    """
    try:
        if authorities is None:
            return ssl.create_default_context()
        if authorities.is_dir():
            return ssl.create_default_context(capath=authorities)
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"{authorities} holds no certificates to trust.",
            found=str(error),
            expected="a file of certificates as PEM",
            hint="`imgstore serve --dev-tls` prints the path of its own as REQUESTS_CA_BUNDLE: copy that file, and name "
            "it with --ca-file",
            target="caFile",
        ) from error


def _check_server_url(server: str) -> str:
    try:
        check_text(server)
        parts = urlsplit(server.strip())
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    plain = parts.scheme == "http" and _is_loopback(host)
    bare = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if not host or not bare or not (parts.scheme == "https" or plain):
        raise InvalidInput(
            "That is no server's address.",
            found=repr(server if "@" not in server else "a URL with a name or a password in it"),
            expected="https://HOST or https://HOST:PORT; http:// on this very machine only",
            hint="for example: --server https://images.example:8443",
            target="server",
        )
    return f"{parts.scheme}://{parts.netloc}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(environ: Mapping[str, str]) -> Credentials:
    token = environ.get("IMGSTORE_TOKEN")
    if token:
        return Bearer(token=token.strip())
    told = [environ.get(name) or "" for name in _APPLICATION]
    missing = [name for name, value in zip(_APPLICATION, told, strict=True) if not value]
    if missing:
        raise Unauthenticated(
            "A server is to be asked, and nobody says in whose name.",
            found=f"no IMGSTORE_TOKEN, and no {', '.join(missing)}",
            expected="IMGSTORE_TOKEN, or IMGSTORE_TENANT_ID, IMGSTORE_CLIENT_ID and IMGSTORE_CLIENT_SECRET",
            hint="`imgstore auth sp create` on the server makes a service principal and tells its secret once",
        )
    return Application(tenant_id=told[0], client_id=told[1], client_secret=told[2])
