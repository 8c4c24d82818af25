"""Test that a failed TLS connection names the real cause, and that the hint removes the cause."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from imgstore.domain.errors import ObjectNotFound, StoreError
from imgstore.stores.http.http_source import HttpSource
from imgstore.stores.s3.store import S3Store
from tests.support.http_server import Page, make_certificate, start_web

HERE: Final = "127.0.0.1"
CAUSES: Final = {
    "untrusted": ("has no trusted certificate", "to the file of the authority"),
    "expired": ("has an expired certificate", "renew the certificate"),
    "not yet": ("has a certificate that is not valid yet", "correct the clock"),
    "name": ("has a certificate for another name", "use a name that the certificate contains"),
    "plain": ("does not use TLS at this port", "http:// in place of https://"),
}


@contextmanager
def server(folder: Path, cause: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Serve with a fault. Yield the https address, and the file of the authority."""
    later = {"expired": timedelta(days=-30), "not yet": timedelta(days=30)}.get(cause, timedelta())
    tls, authority = make_certificate(folder, ["other.example" if cause == "name" else HERE], later=later)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    if cause != "untrusted":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with start_web({"/disk": Page(body=bytes(1024))}, tls=None if cause == "plain" else tls) as web:
        yield f"https://{HERE}:{web.port}", authority


def open_bucket(endpoint: str) -> None:
    store = S3Store(endpoint=endpoint, bucket="b", path_style=True, access_key="k", secret_key="s")
    try:
        store.get("a")
    finally:
        store.close()


@pytest.mark.parametrize("cause", CAUSES)
def test_a_store_names_the_cause(cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        server(tmp_path, cause, monkeypatch) as (endpoint, authority),
        pytest.raises(StoreError, match=CAUSES[cause][0]) as raised,
    ):
        open_bucket(endpoint)
    assert CAUSES[cause][1] in str(raised.value.hint)
    assert cause != "untrusted" or "AWS_CA_BUNDLE" in str(raised.value.hint)
    if cause == "untrusted":
        with server(tmp_path, cause, monkeypatch) as (endpoint, authority):
            monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
            with pytest.raises(ObjectNotFound):
                open_bucket(endpoint)


@pytest.mark.parametrize("cause", CAUSES)
def test_a_source_names_the_cause(cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path, cause, monkeypatch) as (endpoint, authority):
        trusted = None if cause == "untrusted" else authority
        with pytest.raises(StoreError, match=CAUSES[cause][0]) as raised:
            HttpSource(f"{endpoint}/disk", allow_private=True, authorities=trusted)
        assert CAUSES[cause][1] in str(raised.value.hint)
        if cause == "untrusted":
            assert "SSL_CERT_FILE" in str(raised.value.hint)
            monkeypatch.setenv("SSL_CERT_FILE", str(authority))
            HttpSource(f"{endpoint}/disk", allow_private=True).close()
