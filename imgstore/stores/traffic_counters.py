"""The traffic counters of MinIO, in its Prometheus metrics (https://min.io/docs/minio/linux/reference/minio-metrics-v3.html)."""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

import urllib3
from urllib3.exceptions import HTTPError

from imgstore.domain.errors import StoreError, StoreUnreachable

_PATH: Final = "/minio/metrics/v3/api/requests"
_SECONDS_MAX: Final = 10.0
_READINGS_MAX: Final = 60
_WAIT_SECONDS: Final = 0.5


class ServerTraffic(NamedTuple):
    """The bytes of the bodies of all S3 requests and responses since the start of a server."""

    received_bytes: int
    sent_bytes: int


def read_server_traffic(endpoint: str, wait: Callable[[float], None]) -> ServerTraffic:
    """Read the counters of a server until two readings are equal.

    Args:
        endpoint: the S3 endpoint. The metrics must be public (`MINIO_PROMETHEUS_AUTH_TYPE=public`).
        wait: waits for the given seconds.

    Raises:
        StoreUnreachable: the server does not answer, or its counters change for half a minute.
        StoreError: the server has no such counters, or does not show the counters without a token.
    """
    before = _read(endpoint)
    for _ in range(_READINGS_MAX):
        wait(_WAIT_SECONDS)
        after = _read(endpoint)
        if after == before:
            return after
        before = after
    raise StoreUnreachable(
        f"The traffic counters of {endpoint} change all the time.",
        found=f"{_READINGS_MAX} different readings",
        expected="two equal readings, half a second apart",
        hint="compare while no other process uses the server",
        target=endpoint,
    )


def _read(endpoint: str) -> ServerTraffic:
    try:
        answer = urllib3.request("GET", endpoint.rstrip("/") + _PATH, timeout=_SECONDS_MAX, retries=False)
    except HTTPError as error:
        raise StoreUnreachable(
            f"The traffic counters of {endpoint} could not be read.",
            found=str(error),
            expected="an answer of MinIO's metrics",
            hint="check that the server runs and that this machine reaches the server",
            target=endpoint,
        ) from error
    text = answer.data.decode("utf-8", "replace")
    received, sent = (_sum(text, name) for name in ("received", "sent"))
    if answer.status != 200 or received is None or sent is None:
        raise StoreError(
            f"The server {endpoint} shows no traffic counters.",
            found=f"status {answer.status}, {len(text)} characters",
            expected=f"MinIO's metrics at {_PATH}",
            hint="start MinIO with MINIO_PROMETHEUS_AUTH_TYPE=public, or leave out --counters",
            target=endpoint,
        )
    return ServerTraffic(received, sent)


def _sum(text: str, name: str) -> int | None:
    pattern = rf'^minio_api_requests_traffic_{name}_bytes{{[^}}]*type="s3"[^}}]*}} (\S+)$'
    found = re.findall(pattern, text, re.MULTILINE)
    return sum(int(float(value)) for value in found) if found else None
