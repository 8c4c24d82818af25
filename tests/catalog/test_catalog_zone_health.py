"""The circuits of zones in the catalog, on both engines."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from imgstore.catalog import Catalog
from imgstore.catalog.schema import zone_health
from imgstore.domain.storage.circuits import CircuitState, ZoneHealth

pytest_plugins = ["catalog_fixtures"]

OPEN = ZoneHealth(
    region="westus2",
    zone="1",
    observer="host/boot",
    state=CircuitState.OPEN,
    since_seconds=90.0,
    failures=3,
    probe_seconds=4.0,
    open_seconds=8.0,
    error="no answer",
)


def test_latest_circuit_of_each_observer_is_kept(catalog: Catalog) -> None:
    other = replace(OPEN, observer="other/boot", state=CircuitState.HALF_OPEN)
    with catalog.transaction() as transaction:
        transaction.zone_health.write(replace(OPEN, error="an earlier word"))
        transaction.zone_health.write(OPEN)
        transaction.zone_health.write(other)
    with catalog.reading() as transaction:
        (mine,) = transaction.zone_health.list("host/boot")
        every = transaction.zone_health.list()
    assert replace(mine, since_seconds=90.0, probe_seconds=4.0) == OPEN
    assert mine.since_seconds == pytest.approx(90, abs=30)
    assert mine.probe_seconds == pytest.approx(4, abs=30)
    assert [each.observer for each in every] == ["host/boot", "other/boot"]


def test_stopped_observers_are_removed(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        transaction.zone_health.write(OPEN)
        past = transaction.now() - timedelta(days=2)
        transaction._session.run(update(zone_health).values(probe_at=past))
        transaction.zone_health.write(replace(OPEN, observer="other/boot"))
        assert [each.observer for each in transaction.zone_health.list()] == ["other/boot"]
