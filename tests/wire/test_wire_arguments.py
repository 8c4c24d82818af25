"""Arguments of command lines as values."""

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.wire.requests.arguments import parse_rate


@pytest.mark.parametrize(
    ("word", "rate"),
    [
        ("50MB/s", 50_000_000),
        ("16MiB/s", 16 << 20),
        ("1.5 GiB/s", 3 << 29),
        ("64000000", 64_000_000),
        ("200k", 200_000),
        ("1 b/s", 1),
        ("2TB", 2 * 10**12),
        ("0", 0),
        ("0MB/s", 0),
    ],
)
def test_rate_with_and_without_a_unit(word: str, rate: int) -> None:
    assert parse_rate(word) == rate


@pytest.mark.parametrize("word", ["", "fast", "-1", "1e6", "50MBit/s", "50MB/h", "0.1", "1.MB", "\u0661MB", "9" * 30])
def test_other_rates_are_refused(word: str) -> None:
    with pytest.raises(InvalidInput, match="is not a bandwidth"):
        parse_rate(word)
