"""Failed TLS handshakes name their real cause, for sources, stores and servers alike."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from imgstore.domain.errors import ImgstoreError, StoreError
from imgstore.remote.connection import Connection
from imgstore.remote.credentials import Address, Bearer
from imgstore.stores.http.http_source import HttpSource
from imgstore.stores.s3.store import S3Store
from tests.support.certificates import Issued, issue
from tests.support.http_server import start_web

DAY = timedelta(days=1)
Request = Callable[[str, Path], object]


def _request_source(url: str, authorities: Path) -> object:
    return HttpSource(f"{url}/disk.raw", allow_private=True, authorities=authorities)


def _request_store(url: str, authorities: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_CA_BUNDLE", str(authorities))
        store = S3Store(endpoint=url, bucket="b", path_style=True, access_key="a", secret_key="b")
        return store.get("key")


def _request_server(url: str, authorities: Path) -> object:
    connection = Connection(
        Address(url=url, credentials=Bearer(token="t"), authorities=authorities), wait=lambda _: None
    )
    return connection.request("GET", "/")


@pytest.fixture(params=[_request_source, _request_store, _request_server], ids=["source", "store", "server"])
def request_of(request: pytest.FixtureRequest) -> Request:
    return request.param  # type: ignore[no-any-return] # of the list above


ROOT = issue("Root", authority=True)
BETWEEN = issue("Intermediate", by=ROOT, authority=True)
NAMES = ("localhost", "127.0.0.1")
OLD_BETWEEN = issue("Old intermediate", by=ROOT, authority=True, ends=-DAY)


@pytest.mark.parametrize(
    ("chain", "texts"),
    [
        ([issue(*NAMES, by=ROOT, ends=-DAY)], ["has expired", "found: notAfter 20", "renew the certificate"]),
        ([issue(*NAMES, by=ROOT, begins=DAY)], ["is not valid yet", "found: notBefore 20", "check the clock"]),
        (
            [issue(*NAMES, by=OLD_BETWEEN), OLD_BETWEEN],
            ["A certificate above", "has expired", "issuer 'commonName=Old intermediate'"],
        ),
        (
            [issue("images.example", "10.0.0.1", by=ROOT)],
            ["is for other names", "found: images.example, 10.0.0.1", "expected: 127.0.0.1"],
        ),
        (
            [issue(*NAMES, by=issue("Stranger", authority=True))],
            ["authority that is not trusted", "issuer 'commonName=Stranger'"],
        ),
        (
            [issue(*NAMES, by=BETWEEN)],
            ["authority that is not trusted", "issuer 'commonName=Intermediate'", "add the intermediate certificates"],
        ),
        ([issue(*NAMES)], ["is self-signed and not trusted", "subject 'commonName=localhost'"]),
    ],
    ids=["expired", "not yet", "expired issuer", "other name", "unknown issuer", "incomplete chain", "self-signed"],
)
def test_refused_certificates_name_the_cause(
    tmp_path: Path, request_of: Request, chain: list[Issued], texts: list[str]
) -> None:
    authorities = tmp_path / "root.pem"
    authorities.write_bytes(ROOT.pem)
    with start_web({}, tls=chain[0].context(tmp_path / "tls", *chain[1:])) as web, pytest.raises(StoreError) as caught:
        request_of(web.url(""), authorities)
    for text in texts:
        assert text in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("damaged", "text"),
    [(b"images\xff\xfe.example", "subject 'unknown'"), (b"", "subject 'commonName=images01.example'")],
    ids=["name that is no text", "time that is no time"],
)
def test_a_damaged_certificate_of_a_stranger_is_an_error_of_the_server(
    tmp_path: Path, request_of: Request, damaged: bytes, text: str
) -> None:
    """Any caller may name a server with such a certificate."""
    name, authorities = b"images01.example", tmp_path / "root.pem"
    authorities.write_bytes(ROOT.pem)
    shown = issue(name.decode())
    certificate, key = shown.write(tmp_path / "tls")
    begins = f"{shown.certificate.not_valid_before_utc:%y%m%d%H%M%S}Z".encode()
    der = shown.certificate.public_bytes(serialization.Encoding.DER)
    last = der.rindex(name)  # The last name is the subject alternative name.
    changed = der[:last] + damaged + der[last + len(name) :] if damaged else der.replace(begins, b"209901000000Z")
    assert changed != der
    certificate.write_text(ssl.DER_cert_to_PEM_cert(changed))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with start_web({}, tls=tls) as web, pytest.raises(StoreError, match="is self-signed and not trusted") as caught:
        request_of(web.url(""), authorities)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("request_of", "setting"),
    [(_request_source, "SSL_CERT_FILE"), (_request_store, "AWS_CA_BUNDLE"), (_request_server, "--ca-file")],
)
def test_unknown_issuer_names_the_setting_that_helps(
    tmp_path: Path, request_of: Request, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, strange = tmp_path / "root.pem", tmp_path / "strange.pem"
    root.write_bytes(ROOT.pem)
    stranger = issue("Stranger", authority=True)
    strange.write_bytes(stranger.pem)
    with start_web({}, tls=issue(*NAMES, by=stranger).context(tmp_path / "tls")) as web:
        with pytest.raises(StoreError) as caught:
            request_of(web.url(""), root)
        assert setting in str(caught.value.hint)
        monkeypatch.setenv("SSL_CERT_FILE", str(strange))
        with pytest.raises(ImgstoreError) as caught_later:
            request_of(web.url(""), root if setting == "SSL_CERT_FILE" else strange)
        assert "certificate" not in str(caught_later.value)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_unreadable_file_of_authorities_is_named(tmp_path: Path, content: bytes | None) -> None:
    authorities = tmp_path / "root.pem"
    if content is not None:
        authorities.write_bytes(content)
    with start_web({}, tls=issue(*NAMES).context(tmp_path / "tls")) as web, pytest.raises(StoreError) as caught:
        _request_store(web.url(""), authorities)
    assert "authorities" in caught.value.message
    assert "AWS_CA_BUNDLE" in str(caught.value.hint)
    assert not caught.value.retryable


def test_plain_http_on_a_port_of_https_is_named(tmp_path: Path, request_of: Request) -> None:
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    with start_web({}) as web, pytest.raises(StoreError, match="speaks plain http, and was addressed with https"):
        request_of(f"https://127.0.0.1:{web.port}", tmp_path / "root.pem")


def test_https_on_a_port_of_plain_http_is_named(tmp_path: Path, request_of: Request) -> None:
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    tls = issue(*NAMES, by=ROOT).context(tmp_path / "tls")
    with start_web({}, tls=tls) as web, pytest.raises(StoreError, match="speaks https, and was addressed with http"):
        request_of(f"http://127.0.0.1:{web.port}", tmp_path / "root.pem")


def test_plain_text_of_a_proxy_is_an_answer_of_tls(tmp_path: Path) -> None:
    """Go, nginx and Apache answer plain http on a port of https with status 400."""
    tls = issue(*NAMES, by=ROOT).context(tmp_path / "tls")
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    first = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    with _go_server(tls, first) as port:
        for request_of in (_request_store, _request_server):
            with pytest.raises(StoreError, match="speaks https, and was addressed with http"):
                request_of(f"http://127.0.0.1:{port}", tmp_path / "root.pem")


@contextmanager
def _go_server(tls: ssl.SSLContext, answer: bytes) -> Iterator[int]:
    """Run a server of TLS that answers plain http with `answer`, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connected, _ = listening.accept()
                except OSError:
                    return
                with connected:
                    if connected.recv(1, socket.MSG_PEEK) == b"\x16":
                        tls.wrap_socket(connected, server_side=True).close()
                    else:
                        connected.recv(65_536)
                        connected.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def _greeting_server() -> Iterator[int]:
    """Run a server that greets like SSH, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connected, _ = listening.accept()
                except OSError:
                    return
                with connected:
                    connected.sendall(b"SSH-2.0-test\r\n")
                    connected.recv(1000)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_other_protocols_are_named(tmp_path: Path, request_of: Request) -> None:
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    with _greeting_server() as port, pytest.raises(StoreError, match="does not speak TLS"):
        request_of(f"https://127.0.0.1:{port}", tmp_path / "root.pem")


def test_server_without_a_common_version_is_named(tmp_path: Path, request_of: Request) -> None:
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    tls = issue(*NAMES, by=ROOT).context(tmp_path / "tls")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # The key is an elliptic curve key.
    with start_web({}, tls=tls) as web, pytest.raises(StoreError, match=r"The TLS handshake with .* failed"):
        request_of(web.url(""), tmp_path / "root.pem")
