"""Compare forecasts with the bill: predict a change, make the change, and compare all entries (invariant M16)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from sqlalchemy import select

from imgstore.catalog import schema
from imgstore.domain.identity.access import Principal
from imgstore.domain.names import VersionName
from imgstore.domain.requests import DataVhd, VersionSource
from imgstore.domain.resources import Slot, VersionUpdate
from imgstore.ledger.entries import LedgerRow, StorageInterval
from imgstore.ledger.forecast import Forecast, StorageChange, compare_intervals
from imgstore.ledger.statements.usage import list_usage, rate_all
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation
from imgstore.operations.what_if.versions import (
    forecast_version_creation,
    forecast_version_deletion,
    forecast_version_update,
)
from imgstore.stores.interface import Body, ObjectInfo
from imgstore.stores.wrappers.forwarding import ForwardingStore
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, TARGETS, charges, request, target


def predict_create(
    installation: Installation,
    source: Path | None,
    version: str,
    targets: Sequence[str] = TARGETS,
    data: dict[int, Path] | None = None,
    words: dict[str, Any] | None = None,
    **more: Any,
) -> Forecast:
    """Predict `publish` or `publish_disks`. The `words` are fields of the source in place of a file."""
    vhds = tuple(DataVhd(lun=lun, uri=str(uri)) for lun, uri in (data or {}).items())
    named: dict[str, Any] = {"os_vhd_uri": str(source)} if words is None else words
    asked = replace(request(version, targets, **more), source=VersionSource(data_vhds=vhds, **named))
    return forecast_version_creation(installation, ADMIN, asked)


def predict_targets(installation: Installation, targets: Sequence[str], version: str = "1.0.0") -> Forecast:
    """Predict `retarget`."""
    update = VersionUpdate(target_regions=[target(each) for each in targets])
    return forecast_version_update(installation, ADMIN, **_place(version), update=update)


def predict_delete(
    installation: Installation, version: str = "1.0.0", principal: Principal = ADMIN, **more: Any
) -> Forecast:
    """Predict `delete`."""
    return forecast_version_deletion(installation, principal, **_place(version), **more)


def _place(version: str) -> dict[str, Any]:
    return {"group": GROUP, "gallery": GALLERY, "definition": DEFINITION, "version": VersionName.parse(version)}


class _ReadOnlyStore(ForwardingStore):
    """A store that fails the test at each write."""

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """Fail."""
        raise AssertionError(f"a forecast puts {key} ({len(body)} bytes, only_if_absent={only_if_absent})")

    def delete(self, keys: Iterable[str]) -> bool:
        """Fail."""
        raise AssertionError(f"a forecast deletes {list(keys)}")

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """Fail."""
        raise AssertionError(f"a forecast copies {source_key} to {target_key}")


@contextmanager
def reading_only(installation: Installation) -> Iterator[None]:
    """Fail at each request of the block that writes to a store, and if a row or file differs after the block."""
    real = installation.locator.store
    before = _stored(installation), _rows(installation)

    def store(slot: Slot) -> ForwardingStore:
        return _ReadOnlyStore(real(slot))

    installation.locator.store = store  # type: ignore[method-assign]
    try:
        yield
    finally:
        installation.locator.store = real  # type: ignore[method-assign]
    after = _stored(installation), _rows(installation)
    assert after[0] == before[0], {key for key, body in after[0].items() if before[0].get(key) != body}
    assert after[1] == before[1], {name for name, rows in after[1].items() if rows != before[1][name]}


def _stored(installation: Installation) -> dict[str, bytes]:
    """Return all files of the regions of an embedded home."""
    folder = installation.home / "regions"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _rows(installation: Installation) -> dict[str, list[Any]]:
    """Return the rows of all tables of the catalog."""
    with installation.catalog.reading() as transaction:
        session = transaction._session
        return {
            name: sorted((tuple(row) for row in session.all(select(table))), key=repr)
            for name, table in schema.metadata.tables.items()
        }


def check_forecast(installation: Installation, predict: Callable[[], Forecast], change: Callable[[], Any]) -> Forecast:
    """Predict a change, make the change, and compare the forecast with the bill.

    Raises:
        AssertionError: the forecast wrote something, or differs from the bill.
    """
    with reading_only(installation):
        found = predict()
    known, intervals = {row.key for row in charges(installation)}, open_intervals(installation)
    change()
    compare_with_bill(installation, found, known, intervals)
    return found


def compare_with_bill(
    installation: Installation, found: Forecast, known: set[str], intervals: Sequence[StorageInterval]
) -> None:
    """Compare a forecast with the entries that a change has added.

    Args:
        installation: the installation after the change.
        found: the forecast.
        known: the keys of the charges before the change.
        intervals: the open intervals before the change.

    Raises:
        AssertionError: an entry differs.
    """
    added = [row for row in charges(installation) if row.key not in known]
    assert Counter(map(_charge, found.charges)) == Counter(map(_charge, added))
    changes = compare_intervals(intervals, open_intervals(installation))
    assert sorted(map(_change, found.storage)) == sorted(map(_change, changes))
    with installation.catalog.reading() as transaction:
        prices, now = read_prices(installation, transaction), transaction.now()
    rated = rate_all(list_usage(charges(installation), (), prices, now), prices)
    billed = sum((each.amount for each in rated if each.usage.key not in known), Fraction(0))
    assert Fraction(found.egress) == billed, "the order of regions may differ, and tiers apply to the sum"
    assert found.added_bytes == sum(each.added_bytes for each in changes)


def open_intervals(installation: Installation) -> list[StorageInterval]:
    """Return the open intervals of all slots."""
    with installation.catalog.reading() as transaction:
        return [each for each in transaction.ledger.intervals() if each.closed_at is None]


def _charge(row: LedgerRow) -> tuple[Any, ...]:
    return (row.kind, row.party, row.source, row.target, row.replica, row.delivered_bytes, row.unit_price, row.amount)


def _change(each: StorageChange) -> tuple[Any, ...]:
    """Return the comparable part. The uid of a new owner is random."""
    kind = each.storage_account_type
    return (repr(each.party), each.region, each.replica, kind, each.before_bytes, each.after_bytes)
