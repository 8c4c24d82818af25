"""The option for a month of the bill."""

from functools import partial
from typing import Final

import click

from imgstore.ledger.months import Month


def parse_month(text: str) -> Month:
    """Return the month of a word such as 2026-11.

    Raises:
        BadParameter: the word is no month.
    """
    month = Month.parse(text)
    if month is None:
        raise click.BadParameter(f"'{text}' is no month. Write a year and a month such as 2026-11.")
    return month


month_option: Final = partial(click.option, type=parse_month, metavar="YYYY-MM")
"""Make an option whose value is a month in UTC."""
