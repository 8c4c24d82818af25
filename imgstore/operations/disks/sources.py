"""Where a version's bytes come from: a path, ``file://``, ``s3://`` or ``https://``."""

import hashlib
import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from imgstore.domain.disks.source_urls import split_uri, without_secrets
from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.formats import LocalFile, read_through
from imgstore.operations.disks.web_sources import WebSource
from imgstore.operations.installation import Installation

_S3_ENDPOINTS: Final = ("IMGSTORE_SOURCE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Where ``s3://`` is looked for, the first that is set; none is AWS itself."""

_ZEROS: Final = bytes(PIECE_BYTES)


def open_source(installation: Installation, uri: str) -> ByteSource:
    """The source that `uri` names.

    Raises:
        SourceGone: no such file.
        InvalidInput: a scheme that is not read.
        StoreError: the server does not answer.
    """
    parts = split_uri(uri)
    scheme = parts.scheme.lower()
    if scheme == "file":
        return LocalFile(Path(unquote(parts.path)))
    if scheme in ("https", "http"):
        from imgstore.stores.http.http_source import HttpSource  # noqa: PLC0415 - urllib3 costs start-up time

        private = installation.environ.get("IMGSTORE_ALLOW_PRIVATE_SOURCES") == "1"
        deadlines, stop = installation.limits.source_deadlines, installation.keeper.stop
        return WebSource(
            location_of(uri), lambda: HttpSource(uri, allow_private=private, deadlines=deadlines, stop=stop)
        )
    if scheme == "s3":
        from imgstore.stores.s3.store import S3Object, S3Store  # noqa: PLC0415 - boto3 costs start-up time

        endpoint = next(filter(None, (installation.environ.get(name) for name in _S3_ENDPOINTS)), None)
        store = S3Store(endpoint=endpoint, bucket=parts.netloc, path_style=endpoint is not None)
        return S3Object(store, unquote(parts.path.lstrip("/")))
    if scheme and "://" in uri:
        raise InvalidInput(
            f"A source of the scheme '{scheme}' is not read.",
            found=uri,
            expected="a path, file://, s3://bucket/key or https://",
            hint="fetch the file first and give its path",
            target="osVhdUri",
        )
    return LocalFile(Path(uri))


def location_of(uri: str) -> str:
    """What the source that `uri` names is known by (`SourceIdentity.location`), whether or not it is there."""
    parts = split_uri(uri)
    scheme = parts.scheme.lower()
    if scheme in ("https", "http"):
        return without_secrets(uri)
    if scheme == "s3":
        return f"s3://{parts.netloc}/{unquote(parts.path.lstrip('/'))}"
    return os.path.realpath(unquote(parts.path) if scheme == "file" else uri)


def check_sha256(source: ByteSource, expected: str) -> None:
    """Check the file's bytes, holes as zeros, against a SHA-256.

    Raises:
        InvalidInput: it is no SHA-256, or not this file's.
    """
    wanted = expected.strip().lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise InvalidInput(
            "The SHA-256 is invalid.",
            found=repr(expected),
            expected="64 hexadecimal digits",
            hint="give the output of sha256sum",
            target="sha256",
        )
    found = _sha256(source)
    if found != wanted:
        raise InvalidInput(
            "The source does not have the SHA-256 that was given.",
            found=found,
            expected=wanted,
            hint="fetch or build the file again; nothing was published",
            target="sha256",
        )


def _sha256(source: ByteSource) -> str:
    hasher = hashlib.sha256()
    end = 0
    for at, data in read_through(source):
        _zeros(hasher, at - end)
        hasher.update(data)
        end = at + len(data)
    _zeros(hasher, source.file_bytes - end)
    return hasher.hexdigest()


def _zeros(hasher: "hashlib._Hash", length: int) -> None:
    for begin in range(0, length, PIECE_BYTES):
        hasher.update(memoryview(_ZEROS)[: min(PIECE_BYTES, length - begin)])
