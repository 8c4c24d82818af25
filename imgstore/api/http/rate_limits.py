"""Limit the requests of a subscription: Azure's limits, multiplied by a factor.

Azure counts each kind of request over 3 minutes and over 30 minutes. The header ``x-ms-ratelimit-remaining-resource``
reports the remaining requests of both windows. The limits here were taken from recorded traffic. Azure shares a region
among all customers; an installation usually has one user, so the default factor is large. Each process counts alone.
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from imgstore.api.http.paths import (
    DEFINITION,
    DEFINITIONS,
    GALLERIES,
    GALLERY,
    OPERATION,
    SUBSCRIPTION,
    VERSION,
    VERSIONS,
)
from imgstore.domain.errors import ImgstoreError

HEADER: Final = "x-ms-ratelimit-remaining-resource"

_CHANGE: Final = ("PUT", "PATCH")
_MINUTES: Final = (3, 30)


class TooManyRequests(ImgstoreError):
    """The subscription has reached a rate limit."""

    code = "OperationNotAllowed"
    status = 429
    retry_after_seconds = 1
    """The seconds until the next window of the limit."""
    remaining = ""
    """The value of the header `HEADER`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """The number of requests of a kind that Azure permits a subscription."""

    name: str
    in_3_minutes: int
    in_30_minutes: int


def _rate_limits() -> dict[tuple[str, str], RateLimit]:
    table = (
        (_CHANGE, GALLERY, "CreateUpdateGallery", 50, 300),
        (_CHANGE, DEFINITION, "CreateUpdateGalleryImage", 150, 750),
        (_CHANGE, VERSION, "CreateUpdateGalleryImageVersion", 375, 1_200),
        (("DELETE",), GALLERY, "DeleteGallery", 50, 300),
        (("DELETE",), DEFINITION, "DeleteGalleryImage", 50, 300),
        (("DELETE",), VERSION, "DeleteGalleryImageVersion", 150, 1_000),
        (("GET",), GALLERY, "GetGallery", 350, 2_500),
        (("GET",), DEFINITION, "GetGalleryImage", 600, 3_000),
        (("GET",), VERSION, "GetGalleryImageVersion", 2_000, 10_000),
        (("GET",), GALLERIES, "ListGalleryInResourceGroup", 100, 1_000),
        (("GET",), f"{SUBSCRIPTION}/providers/Microsoft.Compute/galleries", "ListGallery", 150, 1_000),
        (("GET",), DEFINITIONS, "ListGalleryImagesInGallery", 1_500, 10_000),
        (("GET",), VERSIONS, "ListGalleryImageVersionsInGalleryImage", 1_500, 10_000),
        (("POST",), f"{GALLERY}/share", "PostShareGallery", 10, 60),
        (("GET",), OPERATION, "GetOperationStatus", 5_000, 15_000),
    )
    return {
        (method, route): RateLimit(name=name, in_3_minutes=few, in_30_minutes=many)
        for methods, route, name, few, many in table
        for method in methods
    }


RATE_LIMITS: Final[Mapping[tuple[str, str], RateLimit]] = _rate_limits()
"""The limits by method and route. Other requests are not counted."""


@dataclass(slots=True)
class _Window:
    """The requests that were counted in a window of time."""

    number: int = -1
    used: int = 0


@dataclass(slots=True)
class RateLimiter:
    """The request counts of a server process. Safe for use in several threads."""

    factor: int
    """The factor of Azure's limits. 0 disables the limits."""
    monotonic: Callable[[], float]
    """A monotonic clock in seconds."""
    _windows: dict[tuple[str, str, int], _Window] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, subscription: str, method: str, route: str) -> str | None:
        """Count a request of a subscription.

        Returns:
            The value of the header `HEADER`. None if the request has no limit.

        Raises:
            TooManyRequests: a limit is reached. The request is not counted.
        """
        limit = RATE_LIMITS.get((method, route))
        if limit is None or not self.factor:
            return None
        now = self.monotonic()
        with self._lock:
            left = {minutes: self._remaining(subscription, limit, minutes, now) for minutes in _MINUTES}
            spent = [minutes for minutes, count in left.items() if count < 1]
            if not spent:
                for minutes in _MINUTES:
                    self._windows[subscription, limit.name, minutes].used += 1
                    left[minutes] -= 1
        remaining = ",".join(f"Microsoft.Compute/{limit.name}{minutes}Min;{count}" for minutes, count in left.items())
        if spent:
            raise _limit_error(limit, spent[-1], now, remaining)
        return remaining

    def _remaining(self, subscription: str, limit: RateLimit, minutes: int, now: float) -> int:
        """Return the number of requests that a window still permits. Start a new window if the old window has ended."""
        window = self._windows.setdefault((subscription, limit.name, minutes), _Window())
        number = int(now // (minutes * 60))
        if window.number != number:
            window.number, window.used = number, 0
        whole = limit.in_3_minutes if minutes == _MINUTES[0] else limit.in_30_minutes
        return whole * self.factor - window.used


def _limit_error(limit: RateLimit, minutes: int, now: float, remaining: str) -> TooManyRequests:
    seconds = math.ceil(minutes * 60 - now % (minutes * 60))
    error = TooManyRequests(
        "The server rejected the request because too many requests have been received for this subscription.",
        found=f"the limit of {limit.name} for {minutes} minutes reached",
        expected=f"a request after {seconds} seconds",
        hint="wait for the time in Retry-After; the operator of the server may raise --rate-limit-factor",
        target=f"{limit.name}{minutes}Min",
    )
    error.retry_after_seconds, error.remaining = max(1, seconds), remaining
    return error
