"""Check the certificate of the server, warn before its end, and load a renewed certificate without a restart.

Invariant H19.
"""

import logging
import os
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AuthorityInformationAccessOID

from imgstore.domain.errors import InvalidInput
from imgstore.domain.host.os_errors import advise, describe
from imgstore.domain.text.durations import format_time

_WARN_BEFORE: Final = timedelta(days=30)
_WARN_EVERY: Final = timedelta(days=1)
_OTHERS_READ: Final = 0o004
_SPKI: Final = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
_PEM_KIND: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_log: Final = logging.getLogger("imgstore.api")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The PEM files of a server: the certificate with its chain, and the key."""

    certificate: Path
    key: Path

    def stamp(self) -> tuple[object, ...]:
        """Return values that change when a file is replaced or written. A missing file has a value of its own."""
        return tuple(_stamp(path) for path in (self.certificate, self.key))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """A certificate whose key matches."""

    files: CertificateFiles
    context: ssl.SSLContext
    begins_at: datetime
    """The latest beginning of a certificate in the chain."""
    ends_at: datetime
    """The earliest end of a certificate in the chain."""
    notes: tuple[str, ...]
    """Properties that may make clients or an administrator refuse the certificate."""


def load_certificate(files: CertificateFiles) -> ServerCertificate:
    """Load a certificate and its key into a new TLS context.

    Raises:
        InvalidInput: a file cannot be read or is not PEM, or the key does not belong to the certificate.
    """
    chain = _read_chain(files.certificate)
    _check_key(files, chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_password)
    except OSError as error:  # ssl.SSLError is an OSError.
        raise InvalidInput(
            "The certificate can't be used: OpenSSL refuses the certificate.",
            found=str(error),
            expected=f"a certificate in {files.certificate} and its key in {files.key}, as PEM",
            hint="give --tls-cert and --tls-key, or --dev-tls",
            target="tls-cert",
        ) from error
    return ServerCertificate(
        files=files,
        context=context,
        begins_at=max(each.not_valid_before_utc for each in chain),
        ends_at=min(each.not_valid_after_utc for each in chain),
        notes=tuple(_find_notes(files, chain)),
    )


def check_validity(certificate: ServerCertificate, now: datetime) -> None:
    """Refuse a certificate that clients refuse at this time.

    Raises:
        InvalidInput: the certificate, or a certificate of its chain, has expired or is not valid yet.
    """
    file = certificate.files.certificate
    if certificate.ends_at <= now:
        raise InvalidInput(
            f"The certificate in {file} has expired.",
            found=f"notAfter {format_time(certificate.ends_at)}",
            expected=f"a time after {format_time(now)}",
            hint="renew the certificate with its authority, and start the server again. For clients on this machine, use "
            "--dev-tls",
            target="tls-cert",
        )
    if certificate.begins_at > now:
        raise InvalidInput(
            f"The certificate in {file} is not valid yet.",
            found=f"notBefore {format_time(certificate.begins_at)}",
            expected=f"a time before {format_time(now)}",
            hint="check the clock of this machine, or start the server again at that time",
            target="tls-cert",
        )


class CertificateWatch:
    """The present certificate of a running server."""

    def __init__(self, files: CertificateFiles, now: Callable[[], datetime]) -> None:
        """Load the certificate.

        Args:
            files: the files of the certificate.
            now: the present time, aware.

        Raises:
            InvalidInput: the certificate cannot be used at this time.
        """
        self._files, self._now = files, now
        self._stamp = files.stamp()
        self._certificate = load_certificate(files)
        check_validity(self._certificate, now())
        self._notes = self._certificate.notes
        self._warned_at: datetime | None = None
        self._refusal = ""

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS context for new connections."""
        return self._certificate.context

    def look(self) -> None:
        """Load the files again if they changed, and log warnings, daily in the last 30 days of the certificate.

        Files that cannot be used, for example during their replacement, leave the present certificate in use. Later calls
        try the same files again, because a certificate may become valid.
        """
        stamp = self._files.stamp()
        if stamp != self._stamp:
            self._renew(stamp)
        for note in self._notes:
            _log.warning("%s", note)
        self._notes = ()
        now = self._now()
        left = self._certificate.ends_at - now
        if left > _WARN_BEFORE or (self._warned_at is not None and now - self._warned_at < _WARN_EVERY):
            return
        self._warned_at = now
        state = "has expired, and clients refuse it" if left <= timedelta(0) else f"ends in {left.days} days"
        _log.warning(
            "the certificate in %s %s: notAfter %s. Renew the files: the server loads renewed files without a restart",
            self._files.certificate,
            state,
            format_time(self._certificate.ends_at),
        )

    def _renew(self, stamp: tuple[object, ...]) -> None:
        try:
            renewed = load_certificate(self._files)
            check_validity(renewed, self._now())
        except InvalidInput as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                reason = f"{error.message} Found: {error.found}"
                _log.warning("the changed certificate is not used, and the former one stays in use: %s", reason)
            return
        self._stamp, self._certificate, self._notes = stamp, renewed, renewed.notes
        self._warned_at, self._refusal = None, ""
        _log.warning(
            "the server uses the renewed certificate in %s: notAfter %s",
            self._files.certificate,
            format_time(renewed.ends_at),
        )


def _read_chain(file: Path) -> list[x509.Certificate]:
    data = _read(file, "certificate")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise InvalidInput(
            f"The certificate can't be used: {file} contains no certificates as PEM.",
            found=_describe_content(data),
            expected="-----BEGIN CERTIFICATE-----, for the certificate of the server and each intermediate authority",
            hint="give the certificate with --tls-cert and the key with --tls-key. Convert a DER file with `openssl x509 "
            "-inform der`",
            target="tls-cert",
        ) from error


def _check_key(files: CertificateFiles, chain: Sequence[x509.Certificate]) -> None:
    data = _read(files.key, "key")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise InvalidInput(
            f"The certificate can't be used: the key in {files.key} is encrypted.",
            found="a key with a password",
            expected="a key without a password, readable by the user of the server only",
            hint="decrypt the key, for example with `openssl pkey`",
            target="tls-key",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"The certificate can't be used: {files.key} contains no private key as PEM.",
            found=_describe_content(data),
            expected="-----BEGIN PRIVATE KEY-----",
            hint="give the key of the certificate with --tls-key",
            target="tls-key",
        ) from error
    own = key.public_key().public_bytes(*_SPKI)
    matching = [number for number, each in enumerate(chain, 1) if _public_key(each) == own]
    if 1 not in matching:
        raise InvalidInput(
            f"The certificate can't be used: the key in {files.key} does not belong to the certificate in "
            f"{files.certificate}.",
            found=f"the key of certificate number {matching[0]} in the file"
            if matching
            else "the key of another certificate",
            expected="the key of the first certificate in the file",
            hint="give the key and the certificate that were made together. The certificate of the server comes first, "
            "then the intermediate authorities",
            target="tls-key",
        )


def _public_key(certificate: x509.Certificate) -> bytes | None:
    """Return the public key of a certificate. None for an unknown kind of key: clients decide about an authority's key."""
    try:
        return certificate.public_key().public_bytes(*_SPKI)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"The certificate can't be used: the {what} file {file} can't be read.",
            found=describe(error, file),
            expected=f"a PEM file that the user of the server ({os.geteuid()}) may read",
            hint=advise(error, file),
            target="tls-cert" if what == "certificate" else "tls-key",
        ) from error


def _describe_content(data: bytes) -> str:
    """Describe a file that contains no usable certificate or key."""
    kinds = sorted({kind.decode() for kind in _PEM_KIND.findall(data)})
    if kinds:
        return f"PEM of {', '.join(kinds)}"
    return "no PEM" if data.strip() else "an empty file"


def _find_notes(files: CertificateFiles, chain: Sequence[x509.Certificate]) -> Iterator[str]:
    """Yield missing links of a chain, which need not contain the root, and a key that others can read."""
    last = chain[-1]
    for first, second in pairwise(chain):
        if first.issuer != second.subject:
            yield (
                f"the chain in {files.certificate} is broken: the certificate after '{_name(first.subject)}' is not of its "
                f"issuer '{_name(first.issuer)}', and clients may refuse it"
            )
    if len(chain) == 1 and last.issuer != last.subject and _has_issuer_address(last):
        yield (
            f"the chain in {files.certificate} may be incomplete: clients that do not know '{_name(last.issuer)}' refuse "
            "the certificate. Append the intermediate certificates that the authority gave"
        )
    with suppress(OSError):
        mode = files.key.stat().st_mode
        if mode & _OTHERS_READ:
            yield f"every user of this machine can read the key in {files.key} (mode {mode & 0o777:04o}): run chmod 600"


def _has_issuer_address(certificate: x509.Certificate) -> bool:
    """Return whether the certificate says where to fetch its issuer. Public authorities say so below an intermediate."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):  # ValueError: a damaged extension
        return False
    return any(each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in access)


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def _refuse_password() -> str:
    return ""  # Without a function, OpenSSL would ask at the terminal.
