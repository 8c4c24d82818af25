"""Test that callers without a token can't block other callers."""

import http.client
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from api_server import Api, start_api
from joserfc import jwt
from joserfc.jwk import RSAKey

from imgstore.api.auth import issuers
from imgstore.api.dev_tls import Certificates, make_certificates
from imgstore.api.http.client_addresses import parse_networks
from imgstore.api.http.connection_limits import ConnectionLimits
from imgstore.domain.identity.principals import Issuer
from imgstore.operations.identity import principals
from tests.support.sample_gallery import ADMIN

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "certificates")


@contextmanager
def limited(tmp_path: Path, **limits: Any) -> Iterator[Api]:
    with start_api(tmp_path / "home", connections=ConnectionLimits(**limits)) as api:
        yield api


def connected(api: Api, sent: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", api.port), timeout=60)
    found.sendall(sent)
    return found


def received(connection: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def is_served(api: Api) -> bool:
    return api.ask("GET", "/subscriptions", version="2022-12-01").status == 200


def test_half_open_connections_do_not_block_a_request(tmp_path: Path) -> None:
    with limited(tmp_path, connections_max=64, connections_per_address_max=16) as api, ExitStack() as held:
        for _ in range(5):
            for _ in range(20):
                held.enter_context(connected(api, HALF))
            assert is_served(api)
        metrics = api.ask("GET", "/metrics", version=None).body
        assert 'imgstore_http_connections_closed_total{reason="room"}' in metrics


def test_head_has_a_deadline(tmp_path: Path) -> None:
    with limited(tmp_path, head_seconds=0.5) as api, connected(api, HALF) as slow, connected(api) as silent:
        assert received(slow).startswith(b"HTTP/1.1 408 ")
        assert received(silent).startswith(b"HTTP/1.1 408 ")
        assert is_served(api)


def test_handshake_has_a_deadline(tmp_path: Path, certificates: Certificates) -> None:
    limits = ConnectionLimits(head_seconds=0.5, connections_per_address_max=8)
    with (
        start_api(tmp_path / "home", certificates=certificates, connections=limits) as api,
        ExitStack() as held,
    ):
        silent = [held.enter_context(connected(api, b"\x16\x03\x01")) for _ in range(20)]
        assert all(received(each) == b"" for each in silent)
        context = ssl.create_default_context(cafile=str(certificates.bundle))
        answer = http.client.HTTPSConnection("localhost", api.port, context=context, timeout=60)
        answer.request("GET", "/healthz")
        assert answer.getresponse().status == 200
        answer.close()


@pytest.mark.parametrize("chunked", [False, True], ids=["gigantic", "without end"])
def test_body_of_a_stranger_is_not_read(tmp_path: Path, chunked: bool) -> None:
    with limited(tmp_path, rest_seconds=0.5) as api:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {1 << 60}"
        head = f"PUT {api.gallery}?api-version=2023-07-03 HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n"
        with connected(api, head.encode()) as stranger:
            assert stranger.recv(65_536).startswith(b"HTTP/1.1 401 ")
            try:
                for _ in range(10_000):
                    stranger.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            except OSError:
                pass
            received(stranger)
        assert is_served(api)


def test_form_of_a_stranger_has_a_maximum_size(tmp_path: Path) -> None:
    with start_api(tmp_path / "home") as api:
        answer = api.ask("POST", "/t/oauth2/v2.0/token", b"a=" + b"b" * (70 << 10), version=None)
        assert answer.status == 413


def test_slow_body_is_aborted(tmp_path: Path) -> None:
    with limited(tmp_path, body_idle_seconds=0.5) as api:
        head = f"PUT {api.gallery}?api-version=2023-07-03 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        head += f"Authorization: {api.headers['Authorization']}\r\n\r\n{{"
        with connected(api, head.encode()) as slow:
            assert received(slow).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"\x00\x01\x02" * 1_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_junk_is_refused(tmp_path: Path, junk: bytes) -> None:
    with limited(tmp_path, keep_alive_seconds=0.2, rest_seconds=0.2) as api:
        with connected(api, junk) as stranger:
            assert received(stranger)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 404", b"HTTP/1.1 405")
        assert is_served(api)


@pytest.mark.parametrize("is_read", [False, True], ids=["after the answer", "while the server reads"])
def test_body_of_tiny_chunks_is_aborted(tmp_path: Path, is_read: bool) -> None:
    with limited(tmp_path, rest_seconds=600, body_idle_seconds=600) as api:
        line = "POST /t/oauth2/v2.0/token" if is_read else "GET /healthz"
        with connected(api, f"{line} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()) as stranger:
            if not is_read:
                assert stranger.recv(65_536).startswith(b"HTTP/1.1 200 ")
            with suppress(OSError):
                stranger.sendall(b"1\r\na\r\n" * 2_000)
            answer = received(stranger)  # Ends: the server hangs up, long before the deadline.
            assert b"400 Bad Request" not in answer or b"chunks" in answer
        assert is_served(api)


@pytest.mark.parametrize("body", [b"zz\r\n", b"1\r\na\r\n" * 2_000], ids=["no chunk", "tiny chunks"])
def test_incomplete_body_is_no_server_error(tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with limited(tmp_path) as api:
        for _ in range(5):
            with connected(api, head + body) as stranger:
                received(stranger)
        form = b"POST /t/oauth2/v2.0/token HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        with connected(api, form) as stranger:
            assert stranger.recv(65_536).startswith(b"HTTP/1.1 100 ")  # It is read, and never comes.
        while 'oauth2/v2.0/token",status=' not in str(api.ask("GET", "/metrics", version=None).body):
            assert is_served(api)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_head_of_many_lines_is_refused_before_parsing(tmp_path: Path) -> None:
    with limited(tmp_path) as api, connected(api, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300) as stranger:
        answer = received(stranger)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"more than 256 lines" in answer


def test_upgrade_header_is_ignored(tmp_path: Path) -> None:
    with limited(tmp_path, keep_alive_seconds=0.2) as api:
        asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"
        for protocol in (b"websocket", b"h2c", b"junk"):
            with connected(api, asked % protocol) as stranger:
                assert received(stranger).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    row = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 300
    with limited(tmp_path, keep_alive_seconds=0.2) as api, connected(api, row) as stranger:
        assert received(stranger).count(b"HTTP/1.1 200 ") == 300


def test_invented_methods_share_one_label(tmp_path: Path) -> None:
    with start_api(tmp_path / "home") as api, connected(api) as stranger:
        for number in range(300):
            stranger.sendall(b"M%d /healthz HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            stranger.recv(65_536)
        metrics = api.ask("GET", "/metrics", version=None).body
        assert 'method="other"' in metrics
        assert "M1" not in metrics
        assert len(metrics) < 20_000


@pytest.mark.parametrize("text", ["[" * 50_000, '{"a":' * 101 + "1" + "}" * 101, "[" * 102 + "]" * 102])
def test_deep_body_is_refused(tmp_path: Path, text: str) -> None:
    with start_api(tmp_path / "home") as api:
        answer = api.ask("PUT", api.gallery, text.encode())
        assert (answer.status, answer.code) == (400, "InvalidRequestContent")


def guess(api: Api, client_id: str, secret: str, address: str = "127.0.0.1", **headers: str) -> Any:
    tenant = api.credential.known.identity.tenant_uid if api.credential else ""
    form = f"grant_type=client_credentials&client_id={client_id}&client_secret={secret}&scope={api.url}/.default"
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=120, source_address=(address, 0))
    try:
        connection.request("POST", f"/{tenant}/oauth2/v2.0/token", form.encode(), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


def test_wrong_secrets_do_not_block_other_callers(tmp_path: Path) -> None:
    with start_api(tmp_path / "home", secret_failures_max=5) as api:
        assert api.credential is not None
        client, right = api.credential.known.identity.client_id or "", api.credential.secret
        statuses: list[int] = []

        def guess_on() -> None:
            statuses.extend(guess(api, client, "im" + "x" * 40)[0] for _ in range(5))

        guessers = [threading.Thread(target=guess_on) for _ in range(16)]
        for each in guessers:
            each.start()
        for _ in range(10):
            assert is_served(api)
        assert guess(api, client, right, "127.0.0.2")[0] == 200
        for each in guessers:
            each.join()
        assert {401, 429} <= set(statuses) <= {401, 429}
        status, headers = guess(api, client, "wrong")
        assert (status, 1 <= int(headers["Retry-After"]) <= 60) == (429, True)
        assert guess(api, client, right)[0] == 200, "it was right a short while ago, so it is known to be right"
        with api.installation.catalog.reading() as transaction:
            refused = [row for row in transaction.activity.list(500) if row.outcome == "Failed"]
        assert len(refused) == 1
        assert refused[0].repeats == statuses.count(401) - 1


def test_many_failures_of_a_client_id_limit_only_failing_addresses(tmp_path: Path) -> None:
    with start_api(tmp_path / "home", secret_failures_max=40, trusted_proxies=parse_networks(["127.0.0.1/32"])) as api:
        assert api.credential is not None
        client, right = api.credential.known.identity.client_id or "", api.credential.secret

        def guess_from(number: int) -> int:
            return int(guess(api, client, f"w{number}", **{"X-Forwarded-For": f"9.9.9.9, 10.1.{number}.1"})[0])

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(guess_from, range(60))) == {401}
        assert guess_from(0) == 429
        assert guess(api, client, right, **{"X-Forwarded-For": "10.2.0.1"})[0] == 200


def test_silent_issuer_does_not_block_other_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuers, "_FETCH_SECONDS_MAX", 1.0)
    with start_api(tmp_path / "home") as api, socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}"
        principals.add_issuer(api.installation, ADMIN, url=url, audience="a", jwks=f"{url}/keys")
        forged = forged_token(url)

        def ask_as_forger(_number: int) -> int:
            headers = {"Authorization": f"Bearer {forged}"}
            return api.ask("GET", "/subscriptions", version="2022-12-01", headers=headers).status

        with ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(ask_as_forger, number) for number in range(40)]
            for _ in range(10):
                assert is_served(api)
            assert {each.result() for each in asked} <= {401, 503}
        assert ask_as_forger(0) == 401, "the failure is remembered"


def forged_token(issuer: str) -> str:
    return jwt.encode({"alg": "RS256", "kid": "x"}, {"iss": issuer, "sub": "s"}, RSAKey.generate_key(2_048))


def test_unknown_key_of_an_issuer_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    key = RSAKey.generate_key(2_048, {"kid": "known"})
    document = json.dumps({"keys": [key.as_dict(private=False)]}).encode()

    def fetch(issuer: Issuer, _clock: Any) -> bytes:
        fetched.append(issuer.url)
        return document

    monkeypatch.setattr(issuers, "_read_document", fetch)
    with start_api(tmp_path / "home") as api:
        principals.add_issuer(api.installation, ADMIN, url="https://i", audience="a", jwks="https://i/keys")
        for _ in range(20):
            headers = {"Authorization": f"Bearer {forged_token('https://i')}"}
            assert api.ask("GET", "/subscriptions", version="2022-12-01", headers=headers).status == 401
    assert len(fetched) == 1
