import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.text.decimals import decimal_text
from imgstore.wire.json_text import Json, dumps, instant

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_values)
def test_values_without_decimals_equal_the_standard_json(value: Json) -> None:
    assert dumps(value) == json.dumps(value, indent=2, ensure_ascii=False)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**9), max_value=10**9))
def test_amounts_keep_all_digits(amount: Decimal) -> None:
    again = json.loads(dumps({"amount": amount}), parse_float=Decimal, parse_int=Decimal)
    assert again == {"amount": amount}


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0"),
        ("0.00", "0"),
        ("1E+3", "1000"),
        ("1E-9", "0.000000001"),
        ("2.50", "2.5"),
        ("100", "100"),
        ("-0.00", "0"),
    ],
)
def test_amounts_are_written_in_full(amount: str, text: str) -> None:
    assert decimal_text(Decimal(amount)) == text


def test_instant_has_azures_format() -> None:
    assert instant(datetime(2023, 12, 19, 9, 12, 25, 258921, tzinfo=UTC)) == "2023-12-19T09:12:25.2589210+00:00"
    assert instant(datetime(2023, 1, 2, tzinfo=UTC)) == "2023-01-02T00:00:00.0000000+00:00"
