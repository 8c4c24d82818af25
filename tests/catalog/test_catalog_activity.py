"""The activity log is bounded: equal refusals share a row, and old rows are deleted."""

from datetime import datetime, timedelta

import pytest
from catalog_values import NOON

from imgstore.catalog import Catalog
from imgstore.catalog.resources.activity import REFUSALS_PER_HOUR

pytest_plugins = ["catalog_fixtures"]


def refuse(catalog: Catalog, principal: str, scope: str, at: datetime = NOON, like: str | None = None) -> None:
    with catalog.transaction() as transaction:
        transaction.activity.add_refusal(
            principal=principal, action="read", scope=scope, detail="AccessDenied: no", at=at, like=like
        )


def rows(catalog: Catalog) -> list[tuple[str, str, int]]:
    with catalog.reading() as transaction:
        return [(row.principal, row.scope, row.repeats) for row in transaction.activity.list(1_000)]


def test_repeated_refusal_has_one_row(catalog: Catalog) -> None:
    for minute in range(5):
        refuse(catalog, "ann", "/a", NOON + timedelta(minutes=minute))
        refuse(catalog, "bob", "/a", NOON + timedelta(minutes=minute))
    refuse(catalog, "ann", "/a", NOON + timedelta(minutes=61))
    assert rows(catalog) == [("ann", "/a", 0), ("bob", "/a", 4), ("ann", "/a", 4)]


@pytest.mark.parametrize("like", [None, "client "])
def test_rows_for_refusals_of_a_caller_are_limited_per_hour(catalog: Catalog, like: str | None) -> None:
    for number in range(REFUSALS_PER_HOUR + 20):
        refuse(catalog, f"client {number}" if like else "ann", f"/{number}", like=like)
    refuse(catalog, "bob", "/x")
    found = rows(catalog)
    assert len(found) == REFUSALS_PER_HOUR + 1
    assert sum(repeats for _, _, repeats in found) == 20


def test_old_and_surplus_rows_are_deleted(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        for day in range(10):
            transaction.activity.add(
                principal="ann",
                action="write",
                scope=f"/{day}",
                outcome="Succeeded",
                detail=None,
                started_at=NOON + timedelta(days=day),
                finished_at=NOON + timedelta(days=day),
            )
    with catalog.transaction() as transaction:
        assert transaction.activity.trim(before=NOON + timedelta(days=3), rows_max=100) == 3
        assert transaction.activity.trim(before=NOON + timedelta(days=3), rows_max=100) == 0
        assert transaction.activity.trim(before=NOON, rows_max=5) == 2
        assert transaction.activity.trim(before=NOON, rows_max=5) == 0
    assert [scope for _, scope, _ in rows(catalog)] == ["/9", "/8", "/7", "/6", "/5"]


def test_texts_of_callers_are_limited(catalog: Catalog) -> None:
    """A body has up to 1 MiB, and a refusal names the id that the caller wrote in a tag or as a source."""
    long = "/" + "x" * (1 << 20)
    with catalog.transaction() as transaction:
        for _ in range(2):
            transaction.activity.add_refusal(principal="ann", action="read", scope=long, detail=f"no {long}", at=NOON)
        transaction.activity.add(
            principal="ann",
            action="write",
            scope=long,
            outcome="Failed",
            detail=f"no {long}",
            started_at=NOON,
            finished_at=NOON,
        )
    with catalog.reading() as transaction:
        written, refused = transaction.activity.list(10)
    assert refused.repeats == 1, "equal refusals share a row"
    for row in (written, refused):
        assert len(row.scope) + len(row.detail or "") == 8_000
        assert row.scope.startswith("/xxx")
