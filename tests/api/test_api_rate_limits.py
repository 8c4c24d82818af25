"""Test the rate limits of a subscription: the remaining requests and the refusals."""

from pathlib import Path

import pytest
from api_server import start_api

from imgstore.api.http.paths import GALLERY, OPERATION
from imgstore.api.http.rate_limits import HEADER, RateLimiter, TooManyRequests

SUBSCRIPTION = "11111111-1111-1111-1111-111111111111"


def test_rate_limit_is_reached_and_reset() -> None:
    now = 10.0
    rates = RateLimiter(1, lambda: now)
    told = [rates.take(SUBSCRIPTION, "PUT", GALLERY) for _ in range(50)]
    assert told[0] == "Microsoft.Compute/CreateUpdateGallery3Min;49,Microsoft.Compute/CreateUpdateGallery30Min;299"
    with pytest.raises(TooManyRequests) as refused:
        rates.take(SUBSCRIPTION, "PATCH", GALLERY)
    assert refused.value.retry_after_seconds == 170, "three minutes are counted from the clock's zero"
    assert refused.value.remaining.endswith("3Min;0,Microsoft.Compute/CreateUpdateGallery30Min;250")
    assert rates.take(SUBSCRIPTION, "GET", GALLERY) is not None, "another budget"
    assert rates.take("another", "PUT", GALLERY) is not None, "another subscription"
    now = 180.0
    assert rates.take(SUBSCRIPTION, "PUT", GALLERY) is not None
    while now < 900.0:
        now += 180.0
        for _ in range(50):
            rates.take(SUBSCRIPTION, "PUT", GALLERY)
    now = 1080.0
    for _ in range(49):
        rates.take(SUBSCRIPTION, "PUT", GALLERY)
    with pytest.raises(TooManyRequests) as refused:
        rates.take(SUBSCRIPTION, "PUT", GALLERY)
    assert refused.value.retry_after_seconds == 1800 - 1080, "thirty minutes have a budget of their own"


def test_requests_without_a_rate_limit() -> None:
    assert RateLimiter(1, lambda: 0.0).take(SUBSCRIPTION, "GET", "/tenants") is None
    assert all(RateLimiter(0, lambda: 0.0).take(SUBSCRIPTION, "PUT", GALLERY) is None for _ in range(100))
    assert RateLimiter(2, lambda: 0.0).take(SUBSCRIPTION, "GET", OPERATION) == (
        "Microsoft.Compute/GetOperationStatus3Min;9999,Microsoft.Compute/GetOperationStatus30Min;29999"
    )


def test_server_reports_remaining_requests_and_refuses(tmp_path: Path) -> None:
    with start_api(tmp_path / "home", rate_limit_factor=1) as api:
        api.found()
        answers = [api.ask("GET", f"{api.top}/providers/Microsoft.Compute/galleries") for _ in range(160)]
        assert answers[0].headers[HEADER].startswith("Microsoft.Compute/ListGallery3Min;149,")
        # A boundary of three minutes may lie between them, and is a budget more.
        refused = [each for each in answers if each.status == 429] or [
            each for _ in range(160) if (each := api.ask("GET", answers_path(api.top))).status == 429
        ]
        assert refused, "150 in three minutes"
        assert (refused[0].code, 1 <= int(refused[0].headers["retry-after"]) <= 180) == ("OperationNotAllowed", True)
        assert refused[0].headers[HEADER].startswith("Microsoft.Compute/ListGallery3Min;0,")
        stranger = api.ask("GET", answers_path(api.top), headers={"Authorization": "Bearer x"})
        assert (stranger.status, HEADER in stranger.headers) == (401, False), "strangers spend nothing"


def answers_path(top: str) -> str:
    return f"{top}/providers/Microsoft.Compute/galleries"
