"""Durations for people are rounded up, so that a retry never comes too early."""

from datetime import UTC, datetime, timedelta

import pytest

from imgstore.domain.text.durations import format_duration, format_time_until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.2, "1 s"),
        (119, "119 s"),
        (120, "2 min"),
        (121, "3 min"),
        (7_199, "120 min"),
        (7_201, "3 h"),
        (172_800, "2 days"),
    ],
)
def test_duration_has_a_single_unit(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


def test_time_is_shown_with_the_duration_until_then() -> None:
    assert format_time_until(NOON, NOON - timedelta(seconds=170)) == "2026-03-01 12:00:00 UTC (in 3 min)"
