"""Sources behind URLs, whose faults callers over the network are told in one way only.

A server that fetches URLs for callers must not report what it sees there. Resolved addresses, open ports, names in
certificates and targets of redirects are facts of the server's own network. The whole error goes to the local command
line and to the log.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imgstore.domain.disks.sources import ByteSource, Extent, SourceIdentity
from imgstore.domain.errors import ImageTruncated, ImgstoreError, InvalidInput, SourceChanged


class WebSource:
    """A `ByteSource` whose errors carry what callers over the network may know (`ImgstoreError.public`)."""

    def __init__(self, shown_url: str, opened: Callable[[], ByteSource]) -> None:
        """Open the source.

        Args:
            shown_url: the URL without secrets.
            opened: opens the source; it may raise any error.
        """
        self._shown_url = shown_url
        with _public_errors(shown_url):
            self._source = opened()

    @property
    def file_bytes(self) -> int:
        """See `ByteSource.file_bytes`."""
        return self._source.file_bytes

    def identity(self) -> SourceIdentity:
        """See `ByteSource.identity`."""
        with _public_errors(self._shown_url):
            return self._source.identity()

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        with _public_errors(self._shown_url):
            return self._source.read_at(offset, length)

    def extents(self) -> Iterator[Extent]:
        """See `ByteSource.extents`."""
        return self._source.extents()

    def close(self) -> None:
        """See `ByteSource.close`."""
        self._source.close()


@contextmanager
def _public_errors(shown_url: str) -> Iterator[None]:
    try:
        yield
    except (ImageTruncated, SourceChanged):
        raise  # The source was read before: this is about the caller's own file.
    except ImgstoreError as error:
        error.public = InvalidInput(
            f"The source '{shown_url}' can't be read.",
            found="no answer that an image can be read from",
            expected="an https URL on the open internet, of a server with a trusted certificate that answers requests "
            "with Range by 206, with the file's length and an ETag or a Last-Modified",
            hint="fetch the URL from elsewhere, with `curl -r 0-0 -v`; the server's log has the reason",
            target=error.target,
            code="SourceNotReadable",
        )
        raise
