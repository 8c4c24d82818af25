"""A disk image in an object of an S3 bucket, read by ranges."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from botocore.exceptions import ClientError

from imgstore.domain.disks.source_urls import S3Location
from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import (
    Conflict,
    ImageTruncated,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreError,
)
from imgstore.stores.s3.store import ETAG_CHARACTERS_MAX, S3Store, error_code, range_header
from imgstore.stores.wrappers.retry import Retrier

_SETTINGS: Final = {
    "the endpoint in regions.yaml": "IMGSTORE_SOURCE_S3_ENDPOINT",
    "the region's entry in regions.yaml": "IMGSTORE_SOURCE_S3_ENDPOINT",
    "name an AWS profile in regions.yaml": "set AWS_PROFILE",
    "profile in regions.yaml or AWS_PROFILE": "AWS_PROFILE",
    "endpoint and signing_region of the zone in regions.yaml": "IMGSTORE_SOURCE_S3_ENDPOINT and AWS_DEFAULT_REGION",
    "signing_region of the zone in regions.yaml": "AWS_DEFAULT_REGION",
}
"""The settings in hints of `S3Store`, and the settings of a source in their place."""


def open_s3_object(location: S3Location, endpoint: str | None) -> "S3Object":
    """Open an object with the credentials of the environment or of an AWS profile.

    Args:
        location: the bucket and the key.
        endpoint: the URL of the server; None is AWS.

    Raises:
        ObjectNotFound: the object does not exist.
        StoreError: the bucket does not exist, or the server does not answer, or the server refuses access.
    """
    store = S3Store(endpoint=endpoint, bucket=location.bucket)
    return S3Object(store, location.key)


class S3Object:
    """A disk image in a bucket, as a `ByteSource`. Every read requires the ETag of the opened object."""

    def __init__(self, store: S3Store, key: str, *, retrier: Retrier | None = None) -> None:
        """Fetch length and ETag.

        Raises:
            ObjectNotFound: the object does not exist.
            StoreError: the bucket does not exist, or the store does not answer, or the store refuses access.
        """
        self._store = store
        self._key = key
        self._location = str(S3Location(store.bucket, key))
        self._retry = retrier or Retrier()
        self._opened = self.identity()

    @property
    def file_bytes(self) -> int:
        """See `ByteSource.file_bytes`."""
        return self._opened.file_bytes

    def identity(self) -> SourceIdentity:
        """See `ByteSource.identity`."""
        with self._explain_errors():
            try:
                answer = self._retry(lambda: self._store._head(self._key))
            except StoreError as error:
                if not error.retryable:  # A response to HEAD contains no code. The response to a GET contains the code.
                    self._retry(lambda: self._store._get(self._key, Range=range_header(0, 1)))
                raise
        etag: str = self._store._require_field(self._key, answer, "ETag")
        with self._store._translate_errors(self._key):
            length = self._store._length(self._key, answer)
            if not (0 < len(etag) <= ETAG_CHARACTERS_MAX and etag.isprintable()):
                raise ValueError(f"the ETag {etag[:40]!r}")
        return SourceIdentity(location=self._location, file_bytes=length, stamp=etag)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        if offset + length > self.file_bytes:
            raise ImageTruncated(
                f"'{self._location}' ends too early.",
                found=f"{self.file_bytes} bytes",
                expected=f"at least {offset + length}",
                hint="upload the whole image again",
                target=self._location,
            )
        if length == 0:
            return b""
        how = {"Range": range_header(offset, length), "IfMatch": self._opened.stamp}
        try:
            with self._explain_errors():
                return self._retry(lambda: self._store._get(self._key, **how))
        except Conflict as error:
            raise SourceChanged(
                f"'{self._location}' was replaced during the read.",
                found="another ETag",
                expected=self._opened.stamp,
                hint="do not change the object during the read, then run the same command again",
                target=self._location,
            ) from error

    def extents(self) -> Iterator[Extent]:
        """See `ByteSource.extents`. S3 reports no holes."""
        if self.file_bytes:
            yield Extent(offset=0, length=self.file_bytes)

    def close(self) -> None:
        """See `ByteSource.close`. The caller owns the store."""

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Replace the errors of a missing bucket, object or right, and the names of settings in other errors.

        The errors of `S3Store` are about the buckets of regions.
        """
        try:
            yield
        except StoreError as error:
            code = error_code(error.__cause__) if isinstance(error.__cause__, ClientError) else ""
            if code in {"NoSuchBucket", "InvalidBucketName"}:
                raise StoreError(
                    f"There is no bucket '{self._store.bucket}'.",
                    found=error.found,
                    expected=f"a bucket with the object of '{self._location}'",
                    hint="check the name of the bucket, and IMGSTORE_SOURCE_S3_ENDPOINT for a server other than AWS",
                    target=self._location,
                ) from error
            if isinstance(error, ObjectNotFound):
                raise ObjectNotFound(
                    f"There is no object '{self._key}' in the bucket '{self._store.bucket}'.",
                    found=error.found,
                    expected=f"an object at '{self._location}'",
                    hint="check the key. The key is the text after the bucket, unchanged: %20 in a key is no space",
                    target=self._location,
                ) from error
            if code == "AccessDenied":
                raise StoreDenied(
                    f"The credentials do not permit reading '{self._location}'.",
                    found=error.found,
                    expected="the right s3:GetObject for the object",
                    hint="ask the owner of the bucket for the right. Without the right s3:ListBucket, a missing object "
                    "has the same response",
                    target=self._location,
                ) from error
            for region_setting, source_setting in _SETTINGS.items():
                error.hint = error.hint and error.hint.replace(region_setting, source_setting)
            raise
