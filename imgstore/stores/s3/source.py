"""A disk image in an object of an S3 bucket, read by ranges."""

from collections.abc import Iterator

from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import (
    Conflict,
    ImageTruncated,
    SourceChanged,
)
from imgstore.stores.s3.store import ETAG_CHARACTERS_MAX, S3Store, range_header
from imgstore.stores.wrappers.retry import Retrier


class S3Object:
    """A disk image in a bucket, as a `ByteSource`. Every read requires the ETag of the opened object."""

    def __init__(self, store: S3Store, key: str, *, retrier: Retrier | None = None) -> None:
        """Fetch length and ETag.

        Raises:
            ObjectNotFound: the object does not exist.
            StoreError: the store does not answer, or refuses access.
        """
        self._store = store
        self._key = key
        self._retry = retrier or Retrier()
        self._opened = self.identity()

    @property
    def file_bytes(self) -> int:
        """See `ByteSource.file_bytes`."""
        return self._opened.file_bytes

    def identity(self) -> SourceIdentity:
        """See `ByteSource.identity`."""
        answer = self._retry(lambda: self._store._head(self._key))
        location = f"s3://{self._store.bucket}/{self._key}"
        etag: str = self._store._require_field(self._key, answer, "ETag")
        with self._store._translate_errors(self._key):
            length = self._store._length(self._key, answer)
            if not (0 < len(etag) <= ETAG_CHARACTERS_MAX and etag.isprintable()):
                raise ValueError(f"the ETag {etag[:40]!r}")
        return SourceIdentity(location=location, file_bytes=length, stamp=etag)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        if offset + length > self.file_bytes:
            raise ImageTruncated(
                f"'{self._opened.location}' ends too early.",
                found=f"{self.file_bytes} bytes",
                expected=f"at least {offset + length}",
                hint="upload the whole image again",
                target=self._opened.location,
            )
        if length == 0:
            return b""
        how = {"Range": range_header(offset, length), "IfMatch": self._opened.stamp}
        try:
            return self._retry(lambda: self._store._get(self._key, **how))
        except Conflict as error:
            raise SourceChanged(
                f"'{self._opened.location}' was replaced during the read.",
                found="another ETag",
                expected=self._opened.stamp,
                hint="do not change the object during the read, then run the same command again",
                target=self._opened.location,
            ) from error

    def extents(self) -> Iterator[Extent]:
        """See `ByteSource.extents`. S3 reports no holes."""
        if self.file_bytes:
            yield Extent(offset=0, length=self.file_bytes)

    def close(self) -> None:
        """See `ByteSource.close`. The caller owns the store."""
