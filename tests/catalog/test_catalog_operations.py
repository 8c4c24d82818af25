"""Long-running operations on both engines: callers, takeover by a single process, and the end."""

from datetime import timedelta

import pytest
from catalog_values import POOLED_ENGINES, uid
from sqlalchemy import update

from imgstore.catalog import Catalog, Transaction, schema
from imgstore.catalog.resources.api_operations import RETENTION
from imgstore.domain.async_operations import AsyncOperation, OperationStatus

pytest_plugins = ["catalog_fixtures"]


def begun(transaction: Transaction, holder: str = "a") -> AsyncOperation:
    return transaction.operations.add(
        uid=uid(),
        subscription="s",
        kind="put-version",
        request={"body": {"tags": {"ü": "1"}}},
        principal="p",
        principal_uid=None,
        holder=holder,
    )


def test_operation_is_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        operation = begun(transaction)
    with catalog.reading() as transaction:
        assert transaction.operations.get(operation.uid) == operation
        assert transaction.operations.get(uid()) is None


@pytest.mark.parametrize("error", [None, {"code": "X", "message": "y", "details": [{"code": "z"}]}])
def test_finished_operation_keeps_the_error_and_not_the_request(
    catalog: Catalog, error: dict[str, object] | None
) -> None:
    with catalog.transaction() as transaction:
        operation = begun(transaction)
        assert operation.uid in {each.uid for each in transaction.operations.list_in_progress()}
        transaction.operations.finish(operation.uid, error)
        told = transaction.operations.get(operation.uid)
        assert told is not None
        wanted = OperationStatus.SUCCEEDED if error is None else OperationStatus.FAILED
        assert (told.status, told.error, told.request) == (wanted, error, {})
        assert told.finished_at is not None
        assert told.finished_at >= operation.started_at
        assert operation.uid not in {each.uid for each in transaction.operations.list_in_progress()}
        assert not transaction.operations.take_over(operation, "b"), "it has ended"


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_only_one_of_two_processes_takes_over_an_operation(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        operation = begun(transaction)
        assert transaction.operations.take_over(operation, "b")
        assert not transaction.operations.take_over(operation, "c"), "as it was read, it was another's"


def test_old_operations_are_removed(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        open_, ended = begun(transaction), begun(transaction)
        transaction.operations.finish(ended.uid, None)
        assert transaction.operations.remove_expired() == 0
        long_ago = transaction.now() - RETENTION - timedelta(seconds=1)
        table = schema.operations
        transaction.operations._session.run(update(table).where(table.c.uid == ended.uid).values(finished_at=long_ago))
        assert transaction.operations.remove_expired() == 1
        assert (transaction.operations.get(ended.uid), transaction.operations.get(open_.uid)) == (None, open_)


def test_new_operation_preempts_older_operations_on_its_resource(catalog: Catalog) -> None:
    def add(kind: str, resource_id: str) -> str:
        operation = transaction.operations.add(
            uid=uid(),
            subscription="s",
            kind=kind,
            request={},
            principal="p",
            principal_uid=None,
            holder="a",
            resource_id=resource_id,
        )
        return operation.uid

    with catalog.transaction() as transaction:
        older, deployment = add("put-disk", "/d/A"), add("put-deployment", "/deployments/x")
        access, other = add("end-disk-access", "/d/a"), add("put-disk", "/d/b")
        newer = add("delete-disk", "/d/a")
        operations = transaction.operations
        found = {each: operations.preempted_resources(each) for each in (older, access, other, newer)}
        assert found == {older: {"/d/a"}, access: set(), other: set(), newer: set()}
        assert operations.preempted_resources(deployment) == {"/d/a", "/d/b"}
        assert set(operations.find_older("/d/A", is_access=False, operation_uid=deployment)) == {older, newer}
        assert operations.find_older("/d/A", is_access=True, operation_uid=None) == [access]
        operations.finish(older, None)
        operations.remove(deployment)
        assert operations.preempted_resources(older) == operations.preempted_resources(deployment) == set()
