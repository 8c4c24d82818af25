"""The request of an operation is erased from the catalog files at the end of the operation, also after a crash."""

from pathlib import Path
from typing import Any

import pytest

from imgstore.catalog.catalog import Catalog
from imgstore.catalog.resources.api_operations import Operations
from imgstore.domain.async_operations import OperationStatus
from imgstore.operations.api_operations import (
    PendingOperation,
    close_operation,
    drop_operation,
    may_hold_secret,
    take_over_operations,
)
from imgstore.operations.installation import Installation
from imgstore.operations.leases import LeaseKeeper
from tests.support.sample_gallery import ADMIN, open_home

SIGNATURE = "c2lnbmF0dXJl"
REQUEST = {"uri": f"https://h/c/b.vhd?sv=2022&sig={SIGNATURE}", "filler": "x" * 20_000}


class Died(Exception):
    """The process, at this place."""


def begin(installation: Installation) -> str:
    pending = PendingOperation(installation, ADMIN, kind="put-disk", request=REQUEST)
    with installation.catalog.transaction() as transaction:
        pending.store(transaction)
    return pending.uid


def holders(home: Path) -> list[str]:
    return [each.name for each in home.iterdir() if each.is_file() and SIGNATURE.encode() in each.read_bytes()]


@pytest.mark.parametrize("error", [None, {"code": "X", "message": "y"}])
def test_request_is_in_no_file_after_a_visible_end(tmp_path: Path, error: Any) -> None:
    with open_home(tmp_path) as installation:
        uid = begin(installation)
        assert holders(tmp_path), "it is there, for the next process to resume"
        close_operation(installation, uid, error)
        assert holders(tmp_path) == []
        dropped = begin(installation)
        drop_operation(installation, dropped)
        assert holders(tmp_path) == []
        with installation.catalog.reading() as transaction:
            assert transaction.operations.get(dropped) is None
    assert holders(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "error", "ended"),
    [
        (None, None, OperationStatus.SUCCEEDED),
        (None, {"code": "X", "message": "y"}, OperationStatus.FAILED),
        (OperationStatus.CANCELED, {"code": "X", "message": "y"}, OperationStatus.CANCELED),
    ],
)
def test_next_process_stores_the_end_after_a_death_behind_the_erasure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: OperationStatus | None, error: Any, ended: OperationStatus
) -> None:
    def die(*_arguments: Any, **_more: Any) -> None:
        raise Died

    with open_home(tmp_path) as installation:
        uid = begin(installation)
        with monkeypatch.context() as patched:
            patched.setattr(Operations, "finish", die)
            with pytest.raises(Died):
                close_operation(installation, uid, error, status=status)
        refused = begin(installation)
        with monkeypatch.context() as patched:
            patched.setattr(Operations, "remove", die)
            with pytest.raises(Died):
                drop_operation(installation, refused)
    monkeypatch.setattr(LeaseKeeper, "is_dead", lambda _keeper, _holder: True)
    with open_home(tmp_path) as installation:
        assert take_over_operations(installation) == []
        with installation.catalog.reading() as transaction:
            kept = transaction.operations.get(uid)
            assert kept is not None
            assert (kept.status, kept.error, kept.request) == (ended, error, {})
            assert transaction.operations.get(refused) is None


def test_next_process_erases_after_a_death_before_the_erasure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_home(tmp_path) as installation, open_home(tmp_path) as other:
        uid = begin(installation)
        with monkeypatch.context() as patched:
            patched.setattr(Catalog, "erase_deleted", lambda _catalog: False)
            close_operation(installation, uid)
        assert holders(tmp_path)
        take_over_operations(other)
        assert holders(tmp_path) == []


def test_log_with_a_reader_is_kept_and_no_operation_fails(tmp_path: Path) -> None:
    with open_home(tmp_path) as installation, open_home(tmp_path) as other:
        uid = begin(installation)
        with other.catalog.reading() as transaction:
            transaction.operations.get(uid)
            close_operation(installation, uid)
        with installation.catalog.reading() as transaction:
            kept = transaction.operations.get(uid)
            assert kept is not None
            assert kept.status is OperationStatus.SUCCEEDED
        close_operation(installation, begin(installation))
        assert holders(tmp_path) == []


@pytest.mark.parametrize(
    ("request_", "held"),
    [
        ({"body": {"properties": {"sourceUri": "https://h/p?sig=x"}}}, True),
        ({"body": [{"uri": "https://user:word@h/p"}]}, True),
        ({"body": {"properties": {"template": {}}}}, True),
        ({"body": {"tags": {"why": "really?"}, "uri": "https://h/p"}}, False),
        ({}, False),
    ],
)
def test_which_requests_may_hold_a_secret(request_: dict[str, Any], held: bool) -> None:
    assert may_hold_secret(request_) is held
