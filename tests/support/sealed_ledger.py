"""A home with entries of the ledger, for tests of the log of sealed entries."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import delete

from imgstore.catalog import schema
from imgstore.catalog.engine.database import Session
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import open_home

NOON: Final = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def make_charge(installation: Installation, number: int, **more: Any) -> LedgerRow:
    """Make a charge. The number gives key, bytes, amount and time."""
    values: dict[str, Any] = {
        "key": f"charge-{number:05}",
        "kind": ChargeKind.EGRESS,
        "party": Party(
            subscription=installation.subscription, group="rg", gallery="g1", definition='ubuntü "x"', version="1.0.0"
        ),
        "source": "southcentralus",
        "target": "eastus" if number % 2 else "westus2",
        "replica": 0,
        "delivered_bytes": number * 1_000_003,
        "unit_price": Decimal("0.020"),
        "amount": Decimal(number) * Decimal("0.00002000006"),
        "time": NOON + timedelta(minutes=number),
    }
    return LedgerRow(**values | more)


def make_interval(installation: Installation, number: int, **more: Any) -> StorageInterval:
    """Make an open storage interval."""
    party = Party(
        subscription=installation.subscription, group="rg", gallery=None, definition=None, version=None, disk="d"
    )
    values: dict[str, Any] = {
        "uid": f"interval-{number:05}",
        "party": party,
        "owner_uid": f"owner-{number}",
        "slot_uid": "slot",
        "region": "eastus",
        "replica": 0,
        "storage_account_type": StorageAccountType.STANDARD_LRS,
        "stored_bytes": 4096 * number,
        "opened_at": NOON + timedelta(minutes=number),
    }
    return StorageInterval(**values | more)


def add_entries(installation: Installation, charges: range, closed: range = range(0), opened: range = range(0)) -> None:
    """Add charges, closed intervals and open intervals by number."""
    with installation.catalog.transaction() as transaction:
        for number in charges:
            transaction.ledger.add(make_charge(installation, number))
        for number in (*closed, *opened):
            transaction.ledger.open_interval(make_interval(installation, number))
        for number in closed:
            transaction.ledger.close_interval(f"interval-{number:05}", NOON + timedelta(hours=number))


@contextmanager
def open_ledger(home: Path, url: str | None = None) -> Iterator[Installation]:
    """Open a home without price lists, on SQLite or in the PostgreSQL database of `url`.

    The clock of the catalog shows `NOON`, so the entries of `make_charge` are not older than a checkpoint.
    """
    settings: dict[str, Any] = {} if url is None else {"database": url}
    with pytest.MonkeyPatch.context() as patch, open_home(home, **settings) as installation:
        patch.setattr(Session, "now", lambda _session: NOON)
        with installation.catalog.transaction() as transaction:
            transaction._session.run(delete(schema.price_lists))
        yield installation
