"""``imgstore serve`` with certificates as administrators give them: refused ones, and renewal without a restart."""

import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cli_server import Process, serving
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from imgstore.cli.main import main
from tests.support.certificates import Issued, issue

DAY = timedelta(days=1)


def _write_der(folder: Path) -> None:
    certificate, _ = issue("localhost").write(folder)
    certificate.write_bytes(
        x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
    )


def _write_encrypted(folder: Path) -> None:
    issued = issue("localhost")
    _, key = issued.write(folder)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    key.write_bytes(issued.key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))


def _write_reversed(folder: Path) -> None:
    root = issue("Root", authority=True)
    leaf = issue("localhost", by=root)
    certificate, _ = leaf.write(folder)
    certificate.write_bytes(root.pem + leaf.pem)


def _write_swapped(folder: Path) -> None:
    issued = issue("localhost")
    certificate, key = issued.write(folder)
    certificate.write_bytes(issued.key_pem)
    key.write_bytes(issued.pem)


def _write_empty_key(folder: Path) -> None:
    issue("localhost").write(folder)[1].write_bytes(b"")


def _write_without_key(folder: Path) -> None:
    issue("localhost").write(folder)[1].unlink()


@pytest.mark.parametrize(
    ("write", "messages"),
    [
        (lambda folder: issue("localhost", ends=-DAY).write(folder), ["cert.pem has expired", "notAfter 20", "renew"]),
        (lambda folder: issue("localhost", begins=DAY).write(folder), ["cert.pem is not valid yet", "notBefore 20"]),
        (
            lambda folder: (
                issue("localhost").write(folder),
                issue("x").write(folder / "x")[1].rename(folder / "key.pem"),
            ),
            ["the key in", "does not belong to the certificate", "the key of another certificate"],
        ),
        (_write_reversed, ["does not belong", "the key of certificate number 2 in the file"]),
        (_write_encrypted, ["key.pem is encrypted", "openssl pkey"]),
        (_write_swapped, ["cert.pem contains no certificates as PEM", "PEM of PRIVATE KEY", "the key with --tls-key"]),
        (_write_empty_key, ["key.pem contains no private key as PEM", "an empty file"]),
        (_write_der, ["contains no certificates as PEM", "openssl x509 -inform der"]),
        (_write_without_key, ["the key file", "key.pem can't be read", "No such file"]),
        (lambda folder: (folder / "cert.pem").mkdir(parents=True), ["the certificate file", "Is a directory"]),
    ],
)
def test_unusable_certificates_are_refused_by_cause(
    tmp_path: Path, write: Callable[[Path], object], messages: list[str]
) -> None:
    folder = tmp_path / "tls"
    write(folder)
    line = ["serve", "--port", "0", "--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    result = CliRunner().invoke(main, line, env={"IMGSTORE_HOME": str(tmp_path / "home"), "COLUMNS": "400"})
    assert result.exit_code == 1
    for message in messages:
        assert message in result.output


def _handshake(server: Process) -> tuple[ssl.SSLSocket, x509.Certificate]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connected = context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), timeout=60))
    data = connected.getpeercert(binary_form=True)
    assert data is not None
    return connected, x509.load_der_x509_certificate(data)


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline


def test_renewed_certificate_is_loaded_without_a_restart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = issue("localhost", ends=20 * DAY), issue("localhost", ends=300 * DAY)
    certificate, key = first.write(tmp_path / "tls")
    log = ""

    def logged(text: str) -> bool:
        nonlocal log
        log += capfd.readouterr().err
        return text in log

    def serves(issued: Issued) -> bool:
        connected, shown = _handshake(server)
        connected.close()
        return shown == issued.certificate

    with serving(tmp_path / "home", "--tls-cert", str(certificate), "--tls-key", str(key)) as server:
        _await(lambda: logged("ends in 19 days: notAfter "))
        open_before, _ = _handshake(server)
        key.write_bytes(second.key_pem)
        _await(lambda: logged("the former one stays in use"))
        assert serves(first)
        certificate.with_suffix(".new").write_bytes(second.pem)
        certificate.with_suffix(".new").rename(certificate)
        _await(lambda: serves(second))
        assert logged("the server uses the renewed certificate")
        open_before.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert open_before.recv(100).startswith(b"HTTP/1.1 200")
        open_before.close()
