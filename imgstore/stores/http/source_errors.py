"""The errors of a source behind a URL."""

from http import HTTPStatus
from typing import Final

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.disks.source_urls import redact_location
from imgstore.domain.errors import (
    ImageRefused,
    ImageTruncated,
    ImgstoreError,
    InvalidInput,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreUnreachable,
)

EXPECTED: Final = "206 Partial Content to a request with Range"
_DOWNLOAD: Final = "download the file first and give its path"


class NoAnswer(StoreUnreachable):
    """The error of a request without a whole response."""


class SourceErrors:
    """Creates the errors of a source. The errors show the URL without secrets."""

    def __init__(self, url: str, deadlines: SourceDeadlines) -> None:
        self.location: Final = redact_location(url)
        self._deadlines = deadlines

    def bad_status(self, status: int, content_type: str) -> ImgstoreError:
        """Return the error of a response that is neither a range nor a redirect."""
        found = _describe(status)
        if status == 429 or status >= 500 or status in {408, 425}:  # A later repeat may succeed.
            return StoreUnreachable(
                f"The server of '{self.location}' cannot serve the file now.",
                found=found,
                expected=EXPECTED,
                hint="wait, then run the same command again. If the error repeats, ask the operator of the server",
                target=self.location,
            )
        if status in {401, 403, 407}:
            return StoreDenied(
                f"The server of '{self.location}' refuses access.",
                found=found,
                expected=EXPECTED,
                hint="give a signed URL that has not expired, or https://name:password@host/path",
                target=self.location,
            )
        if status in {404, 410}:
            return ObjectNotFound(
                f"'{self.location}' does not exist.",
                found=found,
                expected=EXPECTED,
                hint="check the URL",
                target=self.location,
            )
        if status == 200:
            return ImageRefused(
                f"The server of '{self.location}' does not support ranges.",
                found=f"{found} with a file of type {content_type[:80]!r}" if content_type else found,
                expected=EXPECTED,
                hint=f"if the URL leads to a page, for example to sign in, give the URL of the file; otherwise {_DOWNLOAD}",
                target=self.location,
            )
        if status == 416:
            return ImageRefused(
                f"The server of '{self.location}' refuses the requested range.",
                found=found,
                expected=EXPECTED,
                hint=f"check that the file at the URL is complete and not empty, or {_DOWNLOAD}",
                target=self.location,
            )
        return ImageRefused(
            f"The server of '{self.location}' refuses the request.",
            found=found,
            expected=EXPECTED,
            hint=f"check the URL and its signature, or {_DOWNLOAD}",
            target=self.location,
        )

    def unreachable(self, found: str, kind: type[StoreUnreachable] = StoreUnreachable) -> StoreUnreachable:
        """Return the error of a response that is incomplete or missing."""
        return kind(
            f"'{self.location}' does not answer as expected.",
            found=found,
            expected=EXPECTED,
            hint="check that the server runs, then run the same command again",
            target=self.location,
        )

    def too_slow(self, found: str, kind: type[StoreUnreachable] = StoreUnreachable) -> StoreUnreachable:
        """Return the error of a passed deadline."""
        return kind(
            f"'{self.location}' is too slow.",
            found=found,
            expected=f"an answer's head within {self._deadlines.head_seconds:g} seconds, a byte every "
            f"{self._deadlines.idle_seconds:g}, and {self._deadlines.bytes_per_second_min} bytes a second",
            hint="use a faster server; the operator of imgstore may change source_head_seconds_max, "
            "source_idle_seconds_max and source_bytes_per_second_min under [limits] in settings.toml",
            target=self.location,
        )

    def unsafe_headers(self, content_range: str, stamp: str) -> ImageRefused:
        """Return the error of a range whose headers do not reveal changes of the file."""
        return ImageRefused(
            f"The server of '{self.location}' does not send the headers for a safe read.",
            found=f"Content-Range '{content_range[:80]}', ETag or Last-Modified '{stamp[:80]}'",
            expected="the file's length, and an ETag or a Last-Modified that reveals changes",
            hint=_DOWNLOAD,
            target=self.location,
        )

    def other_range(self, content_range: str, offset: int) -> ImageRefused:
        """Return the error of a range that was not requested."""
        return ImageRefused(
            f"The server of '{self.location}' sends another range than requested.",
            found=f"Content-Range '{content_range[:80]}'",
            expected=f"the bytes from {offset} on",
            hint=_DOWNLOAD,
            target=self.location,
        )

    def too_short(self, file_bytes: int, expected_bytes: int) -> ImageTruncated:
        """Return the error of a read beyond the end of the file."""
        return ImageTruncated(
            f"'{self.location}' ends too early.",
            found=f"{file_bytes} bytes",
            expected=f"at least {expected_bytes}",
            hint="check that the file behind the URL is complete",
            target=self.location,
        )

    def replaced(self, found: str, expected: str) -> SourceChanged:
        """Return the error of a file that changed during the read."""
        return SourceChanged(
            f"'{self.location}' was replaced during the read.",
            found=found,
            expected=expected,
            hint="do not change the file during the read, then run the same command again",
            target=self.location,
        )

    def other_mirror(self, found: str, expected: str) -> SourceChanged:
        """Return the error of a mirror with another file than the first mirror."""
        return SourceChanged(
            f"'{self.location}' was replaced during the read, or redirects to servers with another file.",
            found=found,
            expected=f"{expected}, or a mirror with equal bytes",
            hint="run the same command again. If the error repeats, give the URL of one mirror",
            target=self.location,
        )

    def endless_redirects(self, last_url: str, redirects_max: int) -> ImageRefused:
        """Return the error of too many redirects."""
        return ImageRefused(
            f"'{self.location}' redirects without end.",
            found=f"more than {redirects_max} redirects, the last to '{redact_location(last_url)}'",
            expected=f"at most {redirects_max}",
            hint="give the URL that the file really has",
            target=self.location,
        )

    def bad_redirect(self, url: str) -> ImageRefused:
        """Return the error of a redirect without a valid URL."""
        return ImageRefused(
            f"'{self.location}' redirects to an invalid URL.",
            found=repr(redact_location(url)[:200]),
            expected="a Location with an https URL",
            hint="give the URL that the file really has",
            target=self.location,
        )

    def bad_url(self, found: str) -> InvalidInput:
        """Return the error of a URL that urllib3 refuses."""
        return InvalidInput(
            f"'{self.location}' cannot be a source.",
            found=found[:200],
            expected="https://host/path",
            hint="give the URL that the file really has",
            target=self.location,
        )

    def plain_http(self, url: str, scheme: str) -> InvalidInput:
        """Return the error of a URL, perhaps of a redirect, that is not https."""
        return InvalidInput(
            f"'{redact_location(url)}' cannot be a source.",
            found=f"scheme '{scheme}'",
            expected="https://host/path",
            hint="give an https URL; http is for private servers: IMGSTORE_ALLOW_PRIVATE_SOURCES=1",
            target=self.location,
        )

    def not_public(self, host: str, addresses: list[str]) -> InvalidInput:
        """Return the error of a host with a private address, or without an address."""
        return InvalidInput(
            f"'{host}' is not allowed as the host of an image.",
            found=f"addresses {', '.join(addresses)}, not of the public internet"
            if addresses
            else "a name that does not resolve",
            expected="public addresses only",
            hint="for a server of your own network set IMGSTORE_ALLOW_PRIVATE_SOURCES=1"
            if addresses
            else "correct the name of the host in the URL. `getent hosts NAME` shows the addresses of a name",
            target=self.location,
        )


def _describe(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"
