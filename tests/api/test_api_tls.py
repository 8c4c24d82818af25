"""Test the private certificate authority: creation, names, renewal and private keys."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgstore.api.dev_tls import Certificates, make_certificates

NOW = datetime.now(UTC)
BEGINNING = b"-----BEGIN CERTIFICATE-----"


def shaken(files: Certificates, name: str, roots: Path) -> None:
    """Make a TLS handshake with the strict checks of the latest Python."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(roots))
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def serve() -> None:
            try:
                server.wrap_socket(ours, server_side=True).close()
            except OSError:
                ours.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            client.wrap_socket(theirs, server_hostname=name).close()
        finally:
            theirs.close()
            thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_clients_with_the_bundle_trust_the_server(tmp_path: Path, name: str) -> None:
    files = make_certificates(tmp_path)
    shaken(files, name, files.bundle)
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(files, "images.example", files.bundle)


def test_certificates_are_created_once_and_renewed(tmp_path: Path) -> None:
    files = make_certificates(tmp_path, NOW)
    authority, certificate = files.authority.read_bytes(), files.certificate.read_bytes()
    make_certificates(tmp_path, NOW + timedelta(days=300))
    assert (files.authority.read_bytes(), files.certificate.read_bytes()) == (authority, certificate)
    make_certificates(tmp_path, NOW + timedelta(days=380))
    assert files.authority.read_bytes() == authority, "clients keep what they were given"
    assert files.certificate.read_bytes() != certificate


def test_keys_are_private_and_the_bundle_contains_system_roots(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    for key in (files.key, files.key.with_name("ca-key.pem")):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.key.parent.stat().st_mode) == 0o700
    system = ssl.get_default_verify_paths().cafile
    count = Path(system).read_bytes().count(BEGINNING) if system else 0
    assert files.bundle.read_bytes().count(BEGINNING) == count + 1
