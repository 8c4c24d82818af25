"""How many requests a subscription may make: Azure's budgets, times what this house allows.

Azure counts each kind of request twice, over three minutes and over thirty, and tells in
``x-ms-ratelimit-remaining-resource`` what is left of both (budgets after recorded traffic). Its budgets share a region
among all its customers; here the machine is one's own, so that the usual factor is large. Counted in this process alone.
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
    """The subscription has used its budget up."""

    code = "OperationNotAllowed"
    status = 429
    retry_after_seconds = 1
    """Until there is a budget again."""
    remaining = ""
    """The header's value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How many requests of a kind Azure grants a subscription."""

    name: str
    in_3_minutes: int
    in_30_minutes: int


def _budgets() -> dict[tuple[str, str], RateLimit]:
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


RATE_LIMITS: Final[Mapping[tuple[str, str], RateLimit]] = _budgets()
"""By method and route; other requests are not counted."""


@dataclass(slots=True)
class _Window:
    """What was used of a budget in a stretch of time."""

    number: int = -1
    used: int = 0


@dataclass(slots=True)
class RateLimiter:
    """The counts of one server."""

    factor: int
    """By which Azure's budgets are multiplied; 0 counts nothing."""
    monotonic: Callable[[], float]
    """Seconds."""
    _windows: dict[tuple[str, str, int], _Window] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, subscription: str, method: str, route: str) -> str | None:
        """Take one request out of a subscription's budgets.

        Returns:
            The header's value; None of what is not counted.

        Raises:
            TooManyRequests: there is nothing left.
        """
        budget = RATE_LIMITS.get((method, route))
        if budget is None or not self.factor:
            return None
        now = self.monotonic()
        with self._lock:
            left = {minutes: self._left(subscription, budget, minutes, now) for minutes in _MINUTES}
            spent = [minutes for minutes, count in left.items() if count < 1]
            if not spent:
                for minutes in _MINUTES:
                    self._windows[subscription, budget.name, minutes].used += 1
                    left[minutes] -= 1
        told = ",".join(f"Microsoft.Compute/{budget.name}{minutes}Min;{count}" for minutes, count in left.items())
        if spent:
            raise _too_many(budget, spent[-1], now, told)
        return told

    def _left(self, subscription: str, budget: RateLimit, minutes: int, now: float) -> int:
        """What is left now, in a window that is the present one afterwards."""
        window = self._windows.setdefault((subscription, budget.name, minutes), _Window())
        number = int(now // (minutes * 60))
        if window.number != number:
            window.number, window.used = number, 0
        whole = budget.in_3_minutes if minutes == _MINUTES[0] else budget.in_30_minutes
        return whole * self.factor - window.used


def _too_many(budget: RateLimit, minutes: int, now: float, told: str) -> TooManyRequests:
    seconds = math.ceil(minutes * 60 - now % (minutes * 60))
    error = TooManyRequests(
        "The server rejected the request because too many requests have been received for this subscription.",
        found=f"the budget of {budget.name} used up for {minutes} minutes",
        expected=f"a request in {seconds} seconds",
        hint="wait as long as Retry-After says; who runs the server may raise --rate-limit-factor",
        target=f"{budget.name}{minutes}Min",
    )
    error.retry_after_seconds, error.remaining = max(1, seconds), told
    return error
