"""Certificates as an administrator has them: an authority, intermediates, expired ones and ones for other names."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as PEM."""
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.key.private_bytes(*form)

    def write(self, folder: Path, *above: "Issued") -> tuple[Path, Path]:
        """Write the files of a server: the certificate, followed by the certificates of `above`, and the key."""
        folder.mkdir(exist_ok=True)
        certificate, key = folder / "cert.pem", folder / "key.pem"
        certificate.write_bytes(b"".join(each.pem for each in (self, *above)))
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return certificate, key

    def context(self, folder: Path, *above: "Issued") -> ssl.SSLContext:
        """Return the TLS context of a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.write(folder, *above))
        return context


def issue(
    *names: str,
    by: Issued | None = None,
    authority: bool = False,
    begins: timedelta = -timedelta(days=100),
    ends: timedelta = timedelta(days=100),
    issuer_address: bool = False,
) -> Issued:
    """Issue a certificate. Without an issuer the certificate is self-signed.

    Args:
        names: names and IP addresses; the first is also the common name.
        by: the issuer.
        authority: whether the certificate may issue others.
        begins: the beginning, from now on.
        ends: the end, from now on.
        issuer_address: whether the certificate names a URL of its issuer.
    """
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False
        )
    if issuer_address:
        address = x509.UniformResourceIdentifier("http://ca.example/ca.der")
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, address)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    return Issued(builder.sign(by.key if by else key, hashes.SHA256()), key)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
