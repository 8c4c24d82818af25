"""Where a version's bytes come from: a path, ``file://``, ``s3://`` or ``https://``."""

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from imgstore.domain.disks.source_urls import split_uri, without_secrets
from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.errors import InvalidInput
from imgstore.formats import LocalFile
from imgstore.operations.disks.web_sources import WebSource
from imgstore.operations.installation import Installation

_S3_ENDPOINTS: Final = ("IMGSTORE_SOURCE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Where ``s3://`` is looked for, the first that is set; none is AWS itself."""


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
