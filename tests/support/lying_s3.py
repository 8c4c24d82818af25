"""Lies of an S3 server, for the proxy of `s3_proxy.py`. Raw access to the server carries each lie out."""

import itertools
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from imgstore.domain.storage.sizes import MIB
from tests.support.s3_proxy import Exchange, Forward, ProxiedAnswer, ProxiedRequest, refuse


class Liar:
    """Raw access to one bucket, and counts of requests for lies that not every request meets."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket
        self.lock = threading.Lock()
        self.former: dict[str, bytes] = {}
        self._counts: dict[str, itertools.count[int]] = {}

    def every(self, number: int, what: str) -> bool:
        """Return whether this request is one of each `number` requests of a kind."""
        with self.lock:
            return next(self._counts.setdefault(what, itertools.count(1))) % number == 0

    def key(self, request: ProxiedRequest) -> str | None:
        """Return the key below the analyses; None for requests about the bucket and for other keys."""
        path, _, query = request.path.partition("?")
        key = unquote(path).removeprefix(f"/{self.bucket}/")
        return key if key.startswith("imgstore-probe/analysis/") and not query else None

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, key: str) -> bytes | None:
        try:
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None
        return body


def _keys_of_delete(request: ProxiedRequest) -> list[str]:
    return [found.decode() for found in re.findall(rb"<Key>(.*?)</Key>", request.body)]


def _is_delete(request: ProxiedRequest) -> bool:
    return request.method == "POST" and "delete" in request.path.partition("?")[2]


def _is_list(request: ProxiedRequest) -> bool:
    return request.method == "GET" and "list-type=2" in request.path


def _sized(answer: ProxiedAnswer, body: bytes) -> ProxiedAnswer:
    return replace(answer, body=body, length=len(body))


def _flip(body: bytes) -> bytes:
    at = len(body) // 2
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] if body else body


def stale_read(liar: Liar) -> Exchange:
    """Return the former content for the first two reads of a replaced object."""
    left: dict[str, int] = {}

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        if key is not None and request.method == "PUT":
            former = liar.get(key)
            with liar.lock:
                liar.former.pop(key, None)
                if former is not None:
                    liar.former[key], left[key] = former, 2
        found = forward()
        if key is not None and request.method == "GET" and key in liar.former:
            with liar.lock:
                left[key] -= 1
                if left[key] >= 0:
                    return _sized(found, liar.former[key])
        return found

    return answer


def lost_put(liar: Liar) -> Exchange:
    """Acknowledge each fifth put without storing the object."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        found = forward()
        if key is not None and request.method == "PUT" and found.status == 200 and liar.every(5, "PUT"):
            liar.client.delete_object(Bucket=liar.bucket, Key=key)
        return found

    return answer


def flipped_read(liar: Liar) -> Exchange:
    """Flip a bit of each third read of an object above 1 MiB."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        found = forward()
        is_large = request.method == "GET" and len(found.body) > MIB
        return _sized(found, _flip(found.body)) if is_large and liar.every(3, "GET") else found

    return answer


def truncated_read(liar: Liar) -> Exchange:
    """End each third read of an object above 64 KiB early, with a matching Content-Length."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        found = forward()
        is_large = request.method == "GET" and len(found.body) > 65_536 and not _is_list(request)
        return _sized(found, found.body[:65_536]) if is_large and liar.every(3, "GET") else found

    return answer


def flipped_write(liar: Liar) -> Exchange:
    """Store another body than the body of each third put, in spite of its checksum."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        found = forward()
        if key is not None and request.method == "PUT" and found.status == 200 and liar.every(3, "PUT"):
            liar.put(key, _flip(request.body))
        return found

    return answer


def ignored_checksum(liar: Liar) -> Exchange:
    """Accept a body with a wrong checksum."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        found = forward()
        if key is not None and request.method == "PUT" and found.status == 400:
            liar.put(key, request.body)
            return _sized(replace(found, status=200), b"")
        return found

    return answer


def shifted_range(liar: Liar) -> Exchange:
    """Begin each range of an object above 1 MiB a byte later."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        found = forward()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if key is None or match is None or found.status != 206:
            return found
        body, begin = liar.get(key) or b"", int(match[1]) + 1
        return _sized(found, body[begin : begin + len(found.body)]) if len(body) > MIB else found

    return answer


def ignored_range(liar: Liar) -> Exchange:
    """Answer each fourth range with the whole object."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        found = forward()
        if key is None or "range" not in request.headers or found.status != 206 or not liar.every(4, "range"):
            return found
        return _sized(replace(found, status=200), liar.get(key) or b"")

    return answer


_CONTENTS: Final = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


def delayed_listing(liar: Liar) -> Exchange:
    """List a new object only after the second listing that should have had the object."""
    hidden: dict[bytes, int] = {}

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        found = forward()
        if (key := liar.key(request)) is not None and request.method == "PUT":
            hidden.setdefault(key.encode(), 2)
        if not _is_list(request):
            return found

        def kept(match: re.Match[bytes]) -> bytes:
            key = re.findall(rb"<Key>(.*?)</Key>", match[0])[0]
            with liar.lock:
                hidden[key] = hidden.get(key, 0) - 1
                return b"" if hidden[key] >= 0 else match[0]

        return _sized(found, _CONTENTS.sub(kept, found.body))

    return answer


def lossy_pages(liar: Liar) -> Exchange:
    """Lose the last key of each page that is not the last page."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        found = forward()
        if not _is_list(request) or b"<IsTruncated>true" not in found.body:
            return found
        last = list(_CONTENTS.finditer(found.body))[-1]
        return _sized(found, found.body[: last.start()] + found.body[last.end() :])

    return answer


def ignored_delete(liar: Liar) -> Exchange:
    """Acknowledge a delete without deleting the first key of each third request."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        if not _is_delete(request) or not liar.every(3, "delete"):
            return forward()
        key = _keys_of_delete(request)[0]
        body = liar.get(key)
        found = forward()
        if body is not None:
            liar.put(key, body)
        return found

    return answer


def resurrection(liar: Liar) -> Exchange:
    """Store an object of each second delete again, long after the delete."""
    deleted: dict[str, bytes] = {}

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        if key is not None and "/clock/" in key:
            while deleted:
                liar.put(*deleted.popitem())
        if _is_delete(request) and liar.every(2, "delete"):
            first = _keys_of_delete(request)[0]
            if (body := liar.get(first)) is not None:
                deleted[first] = body
        return forward()

    return answer


def wrong_clock(liar: Liar) -> Exchange:
    """State a time of an hour ago in each third answer to HEAD."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        found = forward()
        if request.method == "HEAD" and "Last-Modified" in found.headers and liar.every(3, "HEAD"):
            time = parsedate_to_datetime(found.headers["Last-Modified"]) - timedelta(hours=1)
            found.headers["Last-Modified"] = format_datetime(time, usegmt=True)
        return found

    return answer


def denied_delete(liar: Liar) -> Exchange:
    """Refuse each fifth delete."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        if _is_delete(request) and liar.every(5, "delete"):
            return refuse("AccessDenied", request.method)
        return forward()

    return answer


def ignored_condition(liar: Liar) -> Exchange:
    """Replace an object in spite of If-None-Match."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        found = forward()
        if key is not None and found.status == 412:
            liar.put(key, request.body)
            return _sized(replace(found, status=200), b"")
        return found

    return answer


def _is_newer(request: ProxiedRequest, key: str) -> bool:
    return (request.method == "PUT" and f"/{key}?" in f"{request.path}?") or (
        _is_delete(request) and key in _keys_of_delete(request)
    )


def late_put(liar: Liar) -> Exchange:
    """Carry out a put that the client gave up after the answer to a newer request for the key."""
    late: dict[str, bytes] = {}

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        if (
            key is not None
            and "/late/" in key
            and request.method == "PUT"
            and request.is_whole
            and request.is_given_up(0.05)
        ):
            late[key] = request.body
            return refuse("AccessDenied", request.method)
        found = forward()
        for each in [each for each in list(late) if _is_newer(request, each)]:
            liar.put(each, late.pop(each))
        return found

    return answer


def late_delete(liar: Liar) -> Exchange:
    """Carry out a delete that the client gave up after the answer to a newer put of the key."""
    late: set[str] = set()

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        if _is_delete(request) and request.is_given_up(0.05):
            late.update(_keys_of_delete(request))
            return refuse("AccessDenied", request.method)
        found = forward()
        for each in [each for each in list(late) if _is_newer(request, each)]:
            late.discard(each)
            liar.client.delete_object(Bucket=liar.bucket, Key=each)
        return found

    return answer


def kept_part(liar: Liar) -> Exchange:
    """Store the part of a body that broke off."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        key = liar.key(request)
        if key is not None and request.method == "PUT" and not request.is_whole:
            liar.put(key, request.body)
        return forward()

    return answer


def size_limit(liar: Liar) -> Exchange:
    """Refuse bodies above 1 MiB."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        if request.method == "PUT" and len(request.body) > MIB:
            return refuse("EntityTooLarge", request.method)
        return forward()

    return answer


def compose(exchanges: Sequence[Exchange]) -> Exchange:
    """Tell several lies at once. The first lie sees each request first and each answer last."""

    def answer(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        for exchange in reversed(exchanges):
            forward = partial(exchange, request, forward)
        return forward()

    return answer


LIES: Final[Mapping[str, tuple[Callable[[Liar], Exchange], str]]] = {
    "stale read": (stale_read, "overwrite"),
    "lost put": (lost_put, "read-after-write"),
    "flipped read": (flipped_read, "content"),
    "truncated read": (truncated_read, "content"),
    "flipped write": (flipped_write, "content"),
    "ignored checksum": (ignored_checksum, "checksums"),
    "shifted range": (shifted_range, "ranges"),
    "ignored range": (ignored_range, "ranges"),
    "delayed listing": (delayed_listing, "listing"),
    "lossy pages": (lossy_pages, "listing"),
    "ignored delete": (ignored_delete, "deletes"),
    "resurrection": (resurrection, "deletes"),
    "wrong clock": (wrong_clock, "clock"),
    "denied delete": (denied_delete, "rights"),
    "ignored condition": (ignored_condition, "conditional-put"),
    "late put": (late_put, "late-requests"),
    "late delete": (late_delete, "late-requests"),
    "kept part": (kept_part, "late-requests"),
    "size limit": (size_limit, "sizes"),
}
"""Each lie with the check that finds the lie."""
