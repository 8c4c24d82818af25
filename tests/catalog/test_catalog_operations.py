"""Long-running operations on both engines: whose they are, that one process takes one over, and that they end."""

from datetime import timedelta

import pytest
from catalog_values import uid
from sqlalchemy import update

from imgstore.catalog import Catalog, Facts, schema
from imgstore.catalog.resources.api_operations import KEPT
from imgstore.domain.async_operations import AsyncOperation, OperationStatus

pytest_plugins = ["catalog_fixtures"]


def begun(facts: Facts, holder: str = "a") -> AsyncOperation:
    return facts.operations.add(
        uid=uid(),
        subscription="s",
        kind="put-version",
        request={"body": {"tags": {"ü": "1"}}},
        principal="p",
        principal_uid=None,
        holder=holder,
    )


def test_what_was_written_is_read(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        operation = begun(facts)
    with catalog.reading() as facts:
        assert facts.operations.get(operation.uid) == operation
        assert facts.operations.get(uid()) is None


@pytest.mark.parametrize("error", [None, {"code": "X", "message": "y", "details": [{"code": "z"}]}])
def test_an_end_keeps_the_error_and_not_the_request(catalog: Catalog, error: dict[str, object] | None) -> None:
    with catalog.transaction() as facts:
        operation = begun(facts)
        assert operation.uid in {each.uid for each in facts.operations.unfinished()}
        facts.operations.finish(operation.uid, error)
        told = facts.operations.get(operation.uid)
        assert told is not None
        wanted = OperationStatus.SUCCEEDED if error is None else OperationStatus.FAILED
        assert (told.status, told.error, told.request) == (wanted, error, {})
        assert told.finished_at is not None
        assert told.finished_at >= operation.started_at
        assert operation.uid not in {each.uid for each in facts.operations.unfinished()}
        assert not facts.operations.take_over(operation, "b"), "it has ended"


def test_of_two_that_find_an_operation_one_takes_it(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        operation = begun(facts)
        assert facts.operations.take_over(operation, "b")
        assert not facts.operations.take_over(operation, "c"), "as it was read, it was another's"


def test_what_ended_long_ago_is_forgotten(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        open_, ended = begun(facts), begun(facts)
        facts.operations.finish(ended.uid, None)
        assert facts.operations.forget_old() == 0
        long_ago = facts.now() - KEPT - timedelta(seconds=1)
        table = schema.operations
        facts.operations._session.run(update(table).where(table.c.uid == ended.uid).values(finished_at=long_ago))
        assert facts.operations.forget_old() == 1
        assert (facts.operations.get(ended.uid), facts.operations.get(open_.uid)) == (None, open_)
