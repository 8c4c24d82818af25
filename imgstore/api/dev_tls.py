"""Create a private certificate authority for a server with local clients only (``--dev-tls``).

The files are created once, below the data home: the authority, a certificate for the loopback names of this machine, and
a bundle. The bundle contains the root certificates of the system and the authority. Some clients replace the system's
roots by a single file (``REQUESTS_CA_BUNDLE``), and therefore need the bundle.
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from imgstore.domain.host.private_files import FILE_MODE, make_private_folder

NAMES: Final = ("localhost", "127.0.0.1", "::1")
_AUTHORITY_LIFE: Final = timedelta(days=3650)
_LIFE: Final = timedelta(days=397)
"""Browsers reject certificates that are valid for more than 398 days."""
_RENEWED_BEFORE: Final = timedelta(days=30)
_CLOCK_SKEW: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM files of a home."""

    certificate: Path
    key: Path
    authority: Path
    bundle: Path
    """The root certificates of the system, and `authority`."""


def make_certificates(home: Path, now: datetime | None = None) -> Certificates:
    """Return the certificates of a home. Create missing files, and replace damaged ones and those that expire soon.

    Raises:
        OSError: the files of the home can't be written.
    """
    folder = home / "tls"
    make_private_folder(folder)
    now = now or datetime.now(UTC)
    files = Certificates(
        certificate=folder / "server.pem",
        key=folder / "server-key.pem",
        authority=folder / "ca.pem",
        bundle=folder / "bundle.pem",
    )
    authority_key = folder / "ca-key.pem"
    if not _is_good(files.authority, authority_key, now):
        _make_authority(files.authority, authority_key, now)
        files.certificate.unlink(missing_ok=True)
    if not _is_good(files.certificate, files.key, now):
        _make_server(files, authority_key, now)
    _write(files.bundle, _system_roots() + files.authority.read_bytes())
    return files


def _make_authority(certificate: Path, key_file: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "imgstore local authority")])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    made = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(key_file, key)
    _write(certificate, made.public_bytes(serialization.Encoding.PEM))


def _make_server(files: Certificates, authority_key: Path, now: datetime) -> None:
    above = x509.load_pem_x509_certificate(files.authority.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey), "_make_authority writes an elliptic curve key"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAMES[0])])
    names = x509.SubjectAlternativeName([_general_name(each) for each in NAMES])
    made = (
        _builder(name, above.subject, key.public_key(), now, _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write_key(files.key, key)
    _write(files.certificate, made.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_good(certificate: Path, key: Path, now: datetime) -> bool:
    if not (certificate.exists() and key.exists()):
        return False
    try:
        known = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (ValueError, TypeError):
        return False
    return known.not_valid_after_utc > now + _RENEWED_BEFORE and known.public_key() == secret.public_key()


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _system_roots() -> bytes:
    """Read the root certificates of the system. Return nothing if there is no such file."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes().rstrip() + b"\n" if file else b""


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(path, key.private_bytes(*form))


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically, with the mode of private files."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
