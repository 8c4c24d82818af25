"""Sources at URLs, with a uniform error for callers over the network.

A server that fetches URLs for callers must not report details of failures. Resolved addresses, open ports, names in
certificates and targets of redirects would reveal the network of the server. The local command line and the log receive
the complete error.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imgstore.domain.disks.sources import ByteSource, Extent, SourceIdentity
from imgstore.domain.errors import ImageTruncated, ImgstoreError, InvalidInput, SourceChanged


class WebSource:
    """A `ByteSource` that adds the error for callers over the network to each error (`ImgstoreError.public`)."""

    def __init__(self, shown_url: str, open_source: Callable[[], ByteSource]) -> None:
        """Open the source.

        Args:
            shown_url: the URL without secrets.
            open_source: a function that opens the source. The function may raise any error.
        """
        self._shown_url = shown_url
        with _public_errors(shown_url):
            self._source = open_source()

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
        raise  # The source was readable before, so the error concerns the file of the caller.
    except ImgstoreError as error:
        error.public = InvalidInput(
            f"The source '{shown_url}' can't be read.",
            found="no usable response from the server",
            expected="an https URL on the open internet. The server must have a trusted certificate, and must answer "
            "requests with Range by 206, with the length of the file and an ETag or a Last-Modified",
            hint="fetch the URL from another machine with `curl -r 0-0 -v`. The log of this server contains the reason",
            target=error.target,
            code="SourceNotReadable",
        )
        raise
