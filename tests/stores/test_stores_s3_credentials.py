"""Test credentials as people set them, and the advice for each refusal of a real store."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest

from imgstore.domain.errors import StoreDenied, StoreError
from imgstore.domain.host.environment import strip_variables
from imgstore.stores.s3.credentials import clean_key, clock_skew, denied_error
from imgstore.stores.s3.store import S3Store
from imgstore.testing.engines import S3Engine

pytestmark = pytest.mark.engine("minio")

AROUND = ["{}\n", "{}\r", "{}\r\n", " {} ", "\ufeff{}", "\t{}\n\n"]


@pytest.fixture(scope="module")
def bucket(minio: S3Engine) -> str:
    return minio.make_bucket("credentials-" + os.urandom(6).hex())


@contextmanager
def opened(minio: S3Engine, bucket: str, **how: Any) -> Iterator[S3Store]:
    store = S3Store(endpoint=minio.endpoint, bucket=bucket, path_style=True, **how)
    try:
        yield store
    finally:
        store.close()


def refusal(minio: S3Engine, bucket: str, call: Callable[[S3Store], object], **how: Any) -> StoreError:
    with pytest.raises(StoreDenied) as raised, opened(minio, bucket, **how) as store:
        call(store)
    return raised.value


@pytest.fixture
def in_environment(minio: S3Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the keys of the environment. A key without a value is the key of the engine."""

    def put(*, access_key: str | None = None, secret_key: str | None = None, token: str | None = None) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key or minio.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key or minio.secret_key)
        if token is None:
            monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        else:
            monkeypatch.setenv("AWS_SESSION_TOKEN", token)

    return put


@pytest.mark.parametrize("around", AROUND)
def test_what_surrounds_a_key_is_no_part_of_the_key(
    minio: S3Engine, bucket: str, around: str, in_environment: Callable[..., None]
) -> None:
    keys = {"access_key": around.format(minio.access_key), "secret_key": around.format(minio.secret_key)}
    in_environment(**keys)
    for how in (keys, {}):
        with opened(minio, bucket, **how) as store:
            store.put("a", b"1")
            assert store.get("a") == b"1"


def test_a_file_with_line_ends_of_windows_is_read(
    minio: S3Engine, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    lines = ["[store]", f"aws_access_key_id = {minio.access_key} ", f"aws_secret_access_key={minio.secret_key}", ""]
    file.write_bytes("\r\n".join(lines).encode())
    with opened(minio, bucket, profile="store") as store:
        store.put("a", b"1")
    file.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    refused = refusal(minio, bucket, lambda store: store.get("a"), profile="store-2")
    assert str(file) in str(refused)
    assert "byte order mark" in str(refused)
    assert refused.hint is not None
    subprocess.run(refused.hint.split("`")[1].replace("FILE", str(file)), shell=True, check=True)
    with pytest.raises(StoreDenied, match="store-3"), opened(minio, bucket, profile="store-3"):
        pass


@pytest.mark.parametrize("name", ["access_key", "secret_key"])
def test_two_lines_in_one_key_are_refused_without_showing_the_key(
    minio: S3Engine, bucket: str, name: str, in_environment: Callable[..., None]
) -> None:
    variable = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"}[name]
    keys = {"access_key": minio.access_key, "secret_key": minio.secret_key}
    keys[name] = f"{keys[name]}\nanother"
    in_environment(**keys)
    for how in (keys, {}):
        refused = refusal(minio, bucket, lambda store: store.get("a"), **how)
        assert refused.message == f"{variable} contains a line end."
        assert keys[name][:8] not in str(refused)


@pytest.mark.parametrize(("name", "value"), [("AWS_ACCESS_KEY_ID", "clé"), ("AWS_SECRET_ACCESS_KEY", "a\0b")])
def test_other_characters_that_no_key_has_are_named(name: str, value: str) -> None:
    with pytest.raises(StoreDenied, match=r"contains the character U\+"):
        clean_key(name, value)


def test_the_program_strips_its_variables() -> None:
    environ = {
        "IMGSTORE_HOME": "/data\r",
        "AWS_CA_BUNDLE": " /ca\n",
        "TMPDIR": "/t\r\n",
        "OTHER": "x\n",
        "LC": "\ufeff",
    }
    strip_variables(environ)
    assert environ == {
        "IMGSTORE_HOME": "/data",
        "AWS_CA_BUNDLE": "/ca",
        "TMPDIR": "/t",
        "OTHER": "x\n",
        "LC": "\ufeff",
    }


@pytest.mark.parametrize(
    ("wrong", "code", "advice"),
    [
        ({"access_key": "nobody"}, "InvalidAccessKeyId", "correct AWS_ACCESS_KEY_ID"),
        ({"secret_key": "wrong-secret"}, "SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY"),
        ({"token": "wrong-token"}, "InvalidTokenId", "AWS_SESSION_TOKEN"),
    ],
)
def test_a_refusal_names_the_wrong_part(
    minio: S3Engine, bucket: str, wrong: dict[str, str], code: str, advice: str, in_environment: Callable[..., None]
) -> None:
    in_environment(**wrong)
    refused = refusal(minio, bucket, lambda store: store.put("a", b"1"))
    assert code in str(refused.found)
    assert advice in str(refused.hint)


def test_a_missing_right_is_no_wrong_credential(
    minio: S3Engine, bucket: str, in_environment: Callable[..., None]
) -> None:
    read = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [read]})
    with minio_sts(minio) as sts:
        given = sts.assume_role(RoleArn="arn:aws:iam::x:role/x", RoleSessionName="session", Policy=policy)[
            "Credentials"
        ]
    in_environment(
        access_key=given["AccessKeyId"], secret_key=given["SecretAccessKey"], token=f"{given['SessionToken']}\r"
    )
    refused = refusal(minio, bucket, lambda store: store.put("a", b"1"))
    assert refused.message.endswith("refuses access.")
    assert "grants the missing right" in str(refused.hint)


@contextmanager
def minio_sts(minio: S3Engine) -> Iterator[Any]:
    client = minio.client("sts")
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("call", ["put", "head"])
@pytest.mark.parametrize(("minutes", "side"), [(20, "ahead of"), (-95, "behind")])
def test_a_wrong_clock_is_named_with_the_difference(
    minio: S3Engine, bucket: str, minutes: int, side: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to HEAD has no code, so only the times tell the cause."""
    shift = timedelta(minutes=minutes)
    real = vars(botocore.auth)["get_current_datetime"]
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *how, **more: real(*how, **more) + shift)
    calls: dict[str, Callable[[S3Store], object]] = {
        "put": lambda store: store.put("a", b"1"),
        "head": lambda store: store.head("a"),
    }
    refused = refusal(
        minio,
        bucket,
        calls[call],
        access_key=minio.access_key,
        secret_key=minio.secret_key,
        now=lambda: datetime.now(UTC) + shift,
    )
    assert "clocks" in refused.message
    assert "correct the clock" in str(refused.hint)
    told = re.search(r"this machine is (\d+) min (\d+) s (ahead of|behind) the store's clock", str(refused.found))
    assert told is not None, refused
    assert told[3] == side
    assert round((int(told[1]) * 60 + int(told[2])) / 60) == abs(minutes)


def test_the_difference_of_clocks_needs_a_date() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert clock_skew({"date": "Thu, 01 Jan 2026 11:00:00 GMT"}, now) == timedelta(hours=1)
    assert clock_skew({"date": "noon"}, now) is None
    assert clock_skew({}, now) is None


@pytest.mark.parametrize("skew", [None, timedelta(), timedelta(seconds=3)])
def test_a_date_header_of_a_proxy_is_no_difference_of_clocks(skew: timedelta | None) -> None:
    """A proxy may write its own Date header, which says nothing about the clock of the store."""
    refused = denied_error("s3 b", "a", "RequestTimeTooSkewed", "403", skew)
    assert "more than 15 minutes apart" in str(refused.found)
