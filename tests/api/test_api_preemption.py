"""Test resumed operations on resources that newer requests wrote: the operations keep the newer values."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_server import Api, bearer, start_api

from imgstore.domain.async_operations import AsyncOperation, OperationStatus
from imgstore.domain.identity.access import Role
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.gallery import galleries
from imgstore.operations.installation import Installation
from imgstore.operations.leases import this_process
from imgstore.operations.resource_uids import find_resource_uid
from tests.support.sample_gallery import ADMIN, GALLERY, GROUP, open_home

DEAD = f"{socket.gethostname()}/{this_process().split('/')[1]}/1/0"
"""Process 1 of this boot, with a start time other than tick 0."""
PLACE = {"group": GROUP, "gallery": GALLERY}


def body(description: str) -> dict[str, Any]:
    return {"location": "southcentralus", "properties": {"description": description}}


def put(description: str) -> tuple[str, dict[str, Any]]:
    return "put-gallery", {**PLACE, "body": body(description), "whole": True}


DELETE = ("delete-gallery", PLACE)


def path(installation: Installation) -> str:
    above = f"/subscriptions/{installation.subscription}/resourceGroups/{GROUP}"
    return f"{above}/providers/Microsoft.Compute/galleries/{GALLERY}"


def leave(installation: Installation, operation: tuple[str, dict[str, Any]], resource_id: str = "", **more: Any) -> str:
    """Store the operation of a server that died before the first write."""
    kind, request = operation
    with installation.catalog.transaction() as transaction:
        (caller,) = (each for each in transaction.principals.list() if each.name == "administrator")
        uid = installation.effects.new_uid()
        target = find_resource_uid(transaction, path(installation)) if kind.startswith("delete-") else None
        named = {} if target is None else {"target_uid": target}
        whole = {"api_version": "2023-07-03", "subscription": installation.subscription, "conditions": {}}
        transaction.operations.add(
            uid=uid,
            subscription=installation.subscription,
            kind=kind,
            request={**whole, **request, **named, **more},
            principal=caller.name,
            principal_uid=caller.uid,
            tenant_uid=caller.tenant_uid,
            holder=DEAD,
            resource_id=resource_id or path(installation),
        )
    return uid


def await_end(api: Api, uid: str) -> AsyncOperation:
    for _ in range(6_000):
        with api.installation.catalog.reading() as transaction:
            found = transaction.operations.get(uid)
        assert found is not None
        if found.has_ended:
            return found
        api.installation.effects.wait(0.01)
    raise AssertionError("it does not end")


def check_preempted(api: Api, uid: str) -> None:
    found = await_end(api, uid)
    assert (found.status, found.error and found.error["code"]) == (OperationStatus.CANCELED, "OperationPreempted")
    with api.installation.catalog.reading() as transaction:
        assert transaction.operations.preempted_resources(uid) == frozenset(), "nothing of it is left"


@contextmanager
def serving(home: Path) -> Iterator[Api]:
    """Serve the home again, with a caller that has all rights in the group."""
    with start_api(home) as api:
        api.headers |= bearer(api, Role.OWNER, GROUP, name=api.installation.effects.new_uid())
        yield api


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with start_api(tmp_path / "home") as api:
        api.found()
    return tmp_path / "home"


def by_request(api: Api) -> None:
    assert api.ask("PUT", api.gallery, body("newer")).status == 200


def by_request_in_other_letters(api: Api) -> None:
    assert api.ask("PUT", api.gallery.upper().replace("/SUBSCRIPTIONS", "/subscriptions"), body("newer")).status == 200


def by_operation(api: Api) -> None:
    """Open the home as the command line does."""
    galleries.update_gallery(
        api.installation, ADMIN, lambda found: replace(found, description="newer"), group=GROUP, name=GALLERY
    )


@pytest.mark.parametrize("write", [by_request, by_request_in_other_letters, by_operation])
def test_resumed_put_keeps_newer_writes(home: Path, write: Callable[[Api], None]) -> None:
    with serving(home) as api:
        uid = leave(api.installation, put("older"))
        write(api)
    # Invariant H17.
    with serving(home) as api:
        check_preempted(api, uid)
        assert api.ask("GET", api.gallery).body["properties"]["description"] == "newer"


def test_resumed_put_without_newer_writes_completes(home: Path) -> None:
    """Refused requests and writes of other resources preempt nothing."""
    with serving(home) as api:
        uid = leave(api.installation, put("older"))
        assert api.ask("PUT", api.gallery, body("newer") | {"location": "eastus"}).status == 409
        assert api.ask("PATCH", api.definition, {"tags": {"a": "b"}}).status == 200
    with serving(home) as api:
        assert await_end(api, uid).status is OperationStatus.SUCCEEDED
        assert api.ask("GET", api.gallery).body["properties"]["description"] == "older"


def test_newest_of_several_unfinished_puts_completes(home: Path) -> None:
    with open_home(home) as installation:
        *older, newest = [leave(installation, put(str(number))) for number in range(4)]
    with serving(home) as api:
        assert await_end(api, newest).status is OperationStatus.SUCCEEDED
        for uid in older:
            check_preempted(api, uid)
        assert api.ask("GET", api.gallery).body["properties"]["description"] == "3"


@pytest.mark.parametrize("unfinished", [False, True])
def test_resumed_delete_keeps_a_newer_resource(home: Path, unfinished: bool) -> None:
    with serving(home) as api:
        assert api.ask("DELETE", api.definition).status == 202
        uid = leave(api.installation, DELETE)
        if unfinished:
            leave(api.installation, put("newer"))
        else:
            by_request(api)
    with serving(home) as api:
        check_preempted(api, uid)
        assert api.ask("GET", api.gallery).status == 200


def test_put_before_an_unfinished_delete_creates_nothing(home: Path) -> None:
    with serving(home) as api:
        assert api.ask("DELETE", api.definition).status == 202
        older = leave(api.installation, put("older"))
        newer = leave(api.installation, DELETE)
    with serving(home) as api:
        assert await_end(api, newer).status is OperationStatus.SUCCEEDED
        found = await_end(api, older)
        assert found.status is OperationStatus.CANCELED
        assert api.ask("GET", api.gallery).status == 404


UPLOAD: dict[str, Any] = {
    "location": "southcentralus",
    "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": MIB + 512}},
}


def test_resumed_revocation_keeps_a_newer_grant(home: Path) -> None:
    with serving(home) as api:
        disk = f"{api.compute}/disks/up"
        api.await_end(api.ask("PUT", disk, UPLOAD))
        operation = ("end-disk-access", {"group": GROUP, "disk": "up"})
        tagged = leave(api.installation, operation, disk)
        assert api.ask("PATCH", disk, {"tags": {"a": "b"}}).status == 200
    with serving(home) as api:
        assert await_end(api, tagged).status is OperationStatus.SUCCEEDED
        granted = leave(api.installation, operation, disk)
        asked = {"access": "Write", "durationInSeconds": 600}
        assert api.ask("POST", f"{disk}/beginGetAccess", asked).status == 200
    with serving(home) as api:
        check_preempted(api, granted)
        assert api.ask("GET", disk).body["properties"]["diskState"] == "ActiveUpload"
