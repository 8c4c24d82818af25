"""Find the real cause of a failed TLS handshake: the certificate, the name, the authority or the protocol.

Python's errors name neither the names nor the times of a refused certificate. Further connections to the same server read
the certificate. Nothing else is sent on these connections, except one request line to a server that does not speak TLS.
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import RemoteDisconnected
from typing import Any, Final
from urllib.parse import urlsplit

from urllib3.util.ssl_match_hostname import CertificateError

from imgstore.domain.errors import StoreError
from imgstore.domain.text.durations import format_time

_PROBE_SECONDS: Final = 3.0
_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME (x509_vfy.h), which Python does not name."""
# OpenSSL's codes of refused certificates: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SELF_SIGNED: Final = 18
_UNKNOWN_ISSUER: Final = (2, 19, 20, 21)
_OTHER_NAME: Final = (62, 64)
_NO_TLS: Final = (
    *("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"),
    *("RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"),
)
_TLS_ANSWERS: Final = ("\x15\x03", r"\x15\x03", "HTTPS server", "HTTPS port", "SSL-enabled server port")
"""The beginning of a TLS alert, and the texts of Go, nginx and Apache."""
_ENDS: Final = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError, ssl.SSLWantReadError)
"""Errors of a connection that ended. A retry may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsServer:
    """A server whose handshake failed."""

    place: str
    """The address for messages."""
    host: str
    """The name or the IP address that the certificate must contain."""
    connect: Callable[[], socket.socket]
    """Opens a TCP connection to the server, or raises OSError."""
    authority_hint: str
    """The setting for a certificate authority of the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFailure:
    """The cause of a failed handshake, as the parts of an error."""

    message: str
    found: str
    expected: str
    hint: str

    def to_error(self, target: str | None, code: str | None = None) -> StoreError:
        """Return the error of a request that no retry helps."""
        return StoreError(
            self.message, found=self.found, expected=self.expected, hint=self.hint, target=target, code=code
        )


def tls_server(place: str, url: str, authority_hint: str) -> TlsServer:
    """Return the server of a URL, whose name is resolved at each connection."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return TlsServer(place=place, host=host, connect=lambda: connect_to(host, port), authority_hint=authority_hint)


def connect_to(host: str, port: int) -> socket.socket:
    """Open a TCP connection for `TlsServer.connect`.

    Raises:
        OSError: the server does not accept a connection within three seconds.
    """
    return socket.create_connection((host, port), timeout=_PROBE_SECONDS)


def find_tls_failure(error: BaseException, server: TlsServer, now: datetime | None = None) -> TlsFailure | None:
    """Return the cause of an error of urllib3 or botocore, or None if the connection only ended.

    Args:
        error: the error, which contains an `ssl.SSLError` or was raised from one.
        server: the server.
        now: the present time, aware.
    """
    if (unreadable := next(filter(_is_unreadable_authority, _causes(error)), None)) is not None:
        return TlsFailure(
            message=f"The certificates of the authorities for {server.place} cannot be read.",
            found=str(unreadable),
            expected="a file of certificates as PEM that this user may read",
            hint=server.authority_hint,
        )
    cause = _find_ssl_error(error)
    if cause is None or isinstance(cause, _ENDS):
        return None
    if isinstance(cause, CertificateError):
        return _explain_names(_read_certificate(server), server)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _explain_certificate(cause, server, now or datetime.now(UTC))
    if cause.reason in _NO_TLS:
        return _explain_no_tls(server)
    return TlsFailure(
        message=f"The TLS handshake with {server.place} failed.",
        found=cause.reason or str(cause),
        expected="a server with TLS 1.2 or 1.3 that needs no certificate of the client",
        hint="check the address, the port and the TLS settings of the server",
    )


def find_plain_http_failure(error: BaseException | None, server: TlsServer) -> TlsFailure | None:
    """Return the failure of plain http on a port of https, or None for another error.

    A server of TLS closes the connection, sends a TLS alert, or says in plain text that it expects https. Only then, or
    if `error` is None, the server is asked for a handshake.
    """
    if error is not None and not any(_is_answer_of_tls(each) for each in _causes(error)):
        return None
    if _read_der(server) is None:
        return None
    return TlsFailure(
        message=f"{_capitalize(server.place)} speaks https, and was addressed with http.",
        found="a server that completes a TLS handshake",
        expected="a server of plain http",
        hint="write https:// instead of http:// in the address",
    )


def _explain_certificate(error: ssl.SSLCertVerificationError, server: TlsServer, now: datetime) -> TlsFailure:
    shown = _read_certificate(server)
    begins, ends = _time(shown.get("notBefore")), _time(shown.get("notAfter"))
    issuer = _format_name(shown.get("issuer", ()))
    renew = "renew the certificate on the server, and check the clock of this machine"
    if error.verify_code == _EXPIRED:
        above = ends is not None and ends > now
        return TlsFailure(
            message=f"The certificate of {server.place} has expired."
            if not above
            else f"A certificate above the certificate of {server.place} has expired.",
            found=f"issuer '{issuer}'" if above else f"notAfter {_format_time(ends)}",
            expected=f"certificates that are valid at {format_time(now)}",
            hint=renew if not above else f"renew the chain on the server. Or {server.authority_hint}",
        )
    if error.verify_code == _NOT_YET_VALID:
        return TlsFailure(
            message=f"The certificate of {server.place} is not valid yet.",
            found=f"notBefore {_format_time(begins)}",
            expected=f"certificates that are valid at {format_time(now)}",
            hint="check the clock of this machine and of the authority",
        )
    if error.verify_code in _OTHER_NAME:
        return _explain_names(shown, server)
    if error.verify_code == _SELF_SIGNED:
        return TlsFailure(
            message=f"The certificate of {server.place} is self-signed and not trusted.",
            found=f"subject '{issuer}'",
            expected="a certificate from an authority that this machine trusts",
            hint=server.authority_hint,
        )
    if error.verify_code in _UNKNOWN_ISSUER:
        return TlsFailure(
            message=f"The certificate of {server.place} comes from an authority that is not trusted.",
            found=f"issuer '{issuer}'",
            expected="an authority that this machine trusts, and all intermediate certificates from the server",
            hint=f"{server.authority_hint}. If the authority is trusted, add the intermediate certificates to the "
            "certificate file of the server",
        )
    return TlsFailure(
        message=f"The certificate of {server.place} is not trusted.",
        found=error.verify_message,
        expected="a valid certificate for the name of the server, from a trusted authority",
        hint=server.authority_hint,
    )


def _explain_names(shown: Mapping[str, Any], server: TlsServer) -> TlsFailure:
    return TlsFailure(
        message=f"The certificate of {server.place} is for other names.",
        found=", ".join(str(value) for _kind, value in shown.get("subjectAltName", ())) or "no name",
        expected=server.host,
        hint="use a name of the certificate in the address, or give the server a certificate for this name",
    )


def _explain_no_tls(server: TlsServer) -> TlsFailure:
    first = b""
    with suppress(OSError), server.connect() as plain:
        plain.settimeout(_PROBE_SECONDS)
        plain.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        first = plain.recv(5)
    if first == b"HTTP/":
        return TlsFailure(
            message=f"{_capitalize(server.place)} speaks plain http, and was addressed with https.",
            found="an answer without TLS",
            expected="a server with TLS",
            hint="use the port of https, or http:// in the address if the network is trusted",
        )
    return TlsFailure(
        message=f"{_capitalize(server.place)} does not speak TLS.",
        found="bytes of another protocol",
        expected="a server with TLS",
        hint="check the port of the address",
    )


def _find_ssl_error(error: BaseException) -> ssl.SSLError | CertificateError | None:
    """Return the error of the handshake. urllib3 raises CertificateError for another name."""
    return next((each for each in _causes(error) if isinstance(each, ssl.SSLError | CertificateError)), None)


def _is_unreadable_authority(error: BaseException) -> bool:
    """Return whether this machine could not read its own file of authorities, before the handshake."""
    if isinstance(error, ssl.SSLError):
        return error.library in ("X509", "PEM")
    return isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError)


def _is_answer_of_tls(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, RemoteDisconnected | ConnectionResetError) or any(sign in text for sign in _TLS_ANSWERS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that it contains or was raised from."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            contained = getattr(each, "kwargs", {}).get("error"), getattr(each, "reason", None)
            waiting += [each.__cause__, each.__context__, *each.args, *contained]


def _read_certificate(server: TlsServer) -> dict[str, Any]:
    """Return the certificate of a server in the form of `ssl.SSLSocket.getpeercert`, or an empty dictionary.

    Python decodes verified certificates only. Therefore the second connection trusts exactly the certificate of the first.
    A certificate may come from a stranger: a name that is not UTF-8 is a ValueError.
    """
    der = _read_der(server)
    if der is None:
        return {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with suppress(OSError, ValueError):
        context.load_verify_locations(cadata=der)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        with server.connect() as plain, context.wrap_socket(plain, server_hostname=server.host) as tls:
            return dict(tls.getpeercert() or {})
    return {}


def _read_der(server: TlsServer) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # No data follows the handshake.
    with (
        suppress(OSError),
        server.connect() as plain,
        context.wrap_socket(plain, server_hostname=server.host) as tls,
    ):
        return tls.getpeercert(binary_form=True)
    return None


def _capitalize(place: str) -> str:
    """Return the beginning of a sentence. The name of a store is unchanged."""
    return place.replace("the ", "The ", 1) if place.startswith("the ") else place


def _time(text: object) -> datetime | None:
    """Return a time of a certificate, or None if the certificate has no such time."""
    with suppress(ValueError):
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC) if isinstance(text, str) else None
    return None


def _format_time(time: datetime | None) -> str:
    return "unknown" if time is None else format_time(time)


def _format_name(name: Any) -> str:
    return ", ".join(f"{key}={value}" for part in name for key, value in part) or "unknown"
