"""Read the address, the credentials and the trusted certificates from the command line and the environment."""

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from imgstore.domain.errors import InvalidInput, Unauthenticated
from imgstore.domain.host.environment import strip_value
from imgstore.domain.text.strict_json import check_text

_APPLICATION: Final = ("IMGSTORE_TENANT_ID", "IMGSTORE_CLIENT_ID", "IMGSTORE_CLIENT_SECRET")
_ROOTS: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A token from another program."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A service principal. The client requests the tokens."""

    tenant_id: str
    client_id: str
    client_secret: str = field(repr=False)


Credentials: TypeAlias = Bearer | Application


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The address of a server, with the credentials."""

    url: str
    """Scheme, host and port."""
    credentials: Credentials
    authorities: Path | None = None
    """A file or a folder with trusted certificates. None for the certificates of the system."""
    subscription: str | None = None
    """None for the only visible subscription."""


def read_address(
    server: str, *, authorities: Path | None, subscription: str | None, environ: Mapping[str, str]
) -> Address:
    """Return the address of a server, with the settings of the environment.

    Args:
        server: The URL of the server.
        authorities: Trusted certificates. None for those of the environment, else those of the system.
        subscription: The id of the subscription. None for that of the environment, if any.
        environ: ``IMGSTORE_TOKEN``, or ``IMGSTORE_TENANT_ID``, ``IMGSTORE_CLIENT_ID`` and ``IMGSTORE_CLIENT_SECRET``;
            ``REQUESTS_CA_BUNDLE`` or ``SSL_CERT_FILE``; ``IMGSTORE_SUBSCRIPTION_ID``.

    Raises:
        InvalidInput: The URL is not that of a server.
        Unauthenticated: The environment contains no credentials.
    """
    named = next(filter(None, (environ.get(name) for name in _ROOTS)), None)
    return Address(
        url=_check_server_url(server),
        credentials=_credentials(environ),
        authorities=authorities or (Path(named) if named else None),
        subscription=subscription or environ.get("IMGSTORE_SUBSCRIPTION_ID") or None,
    )


def create_tls_context(authorities: Path | None) -> ssl.SSLContext:
    """Return the TLS context that verifies certificates of servers.

    Raises:
        InvalidInput: The file or folder contains no certificates.
    """
    try:
        if authorities is None:
            return ssl.create_default_context()
        if authorities.is_dir():
            return ssl.create_default_context(capath=authorities)
        return ssl.create_default_context(cafile=authorities)
    except OSError as error:  # ssl.SSLError is an OSError.
        raise InvalidInput(
            f"{authorities} contains no certificates."
            if isinstance(error, ssl.SSLError)
            else f"The certificates in {authorities} can't be read.",
            found=error.strerror or str(error),
            expected="a file of certificates as PEM",
            hint="`imgstore serve --dev-tls` prints the path of the certificate as REQUESTS_CA_BUNDLE: copy the file, and "
            "name the copy with --ca-file",
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
            "The address of the server is invalid.",
            found=repr(server if "@" not in server else "a URL with a name or a password in it"),
            expected="https://HOST or https://HOST:PORT; http:// for this machine only",
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
    token = strip_value(environ.get("IMGSTORE_TOKEN", ""))
    if token:
        return Bearer(token=_check_line("IMGSTORE_TOKEN", token))
    values = [_check_line(name, strip_value(environ.get(name, ""))) for name in _APPLICATION]
    missing = [name for name, value in zip(_APPLICATION, values, strict=True) if not value]
    if missing:
        raise Unauthenticated(
            "The credentials for the server are missing.",
            found=f"no IMGSTORE_TOKEN, and no {', '.join(missing)}",
            expected="IMGSTORE_TOKEN, or IMGSTORE_TENANT_ID, IMGSTORE_CLIENT_ID and IMGSTORE_CLIENT_SECRET",
            hint="`imgstore auth sp create` on the server creates a service principal and prints the secret once",
        )
    return Application(tenant_id=values[0], client_id=values[1], client_secret=values[2])


def _check_line(name: str, value: str) -> str:
    """Return a credential of printable characters. The error does not contain the credential."""
    wrong = next((at for at, each in enumerate(value) if not (each.isascii() and each.isprintable())), None)
    if wrong is not None:
        raise Unauthenticated(
            f"{name} contains a line end, or another character that no credential has.",
            found=f"the character U+{ord(value[wrong]):04X} after {wrong} characters",
            expected="printable ASCII characters on one line",
            hint=f"set {name} to the value alone, without other lines of the file",
            target=name,
        )
    return value
