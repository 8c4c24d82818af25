"""Test resumed operations of dead servers: the caller's current rights decide.

Also test that a refused request stores no operation.
"""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api_server import Api, bearer, start_api

from imgstore.api import application
from imgstore.api.auth import client_secrets
from imgstore.domain.async_operations import AsyncOperation, OperationStatus
from imgstore.domain.deployments import DeploymentState
from imgstore.domain.identity.access import Role
from imgstore.domain.identity.principals import PrincipalRecord
from imgstore.domain.requests import DiskRequest
from imgstore.domain.resources import DiskKind
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.deployments import begin_deployment, make_nested_uid
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.identity import principals, roles
from imgstore.operations.installation import Installation
from imgstore.operations.leases import this_process
from imgstore.operations.resource_uids import find_resource_uid
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import ADMIN, open_home

_BOOT = this_process().split("/")[1]
DEAD = f"{socket.gethostname()}/{_BOOT}/1/0"
"""Process 1 of this boot, with a start time other than tick 0."""
OTHER = "other"
EMPTY: dict[str, Any] = {"location": "southcentralus"}


def principal(installation: Installation, role: Role | None = None, group: str = OTHER) -> PrincipalRecord:
    """Create a service principal with a role on a group."""
    made = client_secrets.create_service_principal(installation, ADMIN, name="builder").known.identity
    if role is not None:
        scope = f"/subscriptions/{installation.subscription}/resourceGroups/{group}"
        roles.assign(installation, ADMIN, assignee=made.uid, role=role, scope=scope)
    return made


def leave(
    installation: Installation, who: PrincipalRecord | None, kind: str, request: dict[str, Any], uid: str | None = None
) -> str:
    """Store the operation of a process that died."""
    uid = uid or installation.effects.new_uid()
    with installation.catalog.transaction() as transaction:
        transaction.operations.add(
            uid=uid,
            subscription=installation.subscription,
            kind=kind,
            request={"api_version": "2023-07-03", "subscription": installation.subscription, **request},
            principal="builder",
            principal_uid=None if who is None else who.uid,
            tenant_uid=None if who is None else who.tenant_uid,
            holder=DEAD,
        )
    return uid


def ended(api: Api, uid: str) -> AsyncOperation:
    """Return the operation after the end."""
    for _ in range(6_000):
        with api.installation.catalog.reading() as transaction:
            found = transaction.operations.get(uid)
        assert found is not None
        if found.has_ended:
            return found
        api.installation.effects.wait(0.01)
    raise AssertionError("it does not end")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Create a home with two groups and a gallery in each group."""
    with start_api(tmp_path / "home") as api:
        api.found()
        assert api.ask("PUT", f"{api.top}/resourceGroups/{OTHER}", EMPTY).status == 201
        assert api.ask("PUT", gallery(api), EMPTY).status == 201
    return tmp_path / "home"


@pytest.fixture
def stopped(home: Path) -> Iterator[Installation]:
    """Open the installation while no server runs."""
    with open_home(home) as installation:
        yield installation


def stands(api: Api) -> bool:
    """Return whether the gallery exists."""
    with api.installation.catalog.reading() as transaction:
        return transaction.galleries.get(api.installation.subscription, OTHER, "theirs") is not None


def gallery(api: Api) -> str:
    return f"{api.top}/resourceGroups/{OTHER}/providers/Microsoft.Compute/galleries/theirs"


DELETE_THEIRS = {"group": OTHER, "gallery": "theirs", "conditions": {}}


def test_operation_is_resumed_with_the_rights_of_the_caller(home: Path, stopped: Installation) -> None:
    uid = leave(stopped, principal(stopped, Role.CONTRIBUTOR), "delete-gallery", DELETE_THEIRS)
    with start_api(home) as api:
        assert ended(api, uid).status is OperationStatus.SUCCEEDED
        assert not stands(api)


def without_a_role(installation: Installation) -> PrincipalRecord | None:
    return principal(installation)


def with_another_role(installation: Installation) -> PrincipalRecord | None:
    return principal(installation, Role.READER)


def without_a_caller(_installation: Installation) -> PrincipalRecord | None:
    return None


def of_a_principal_that_is_gone(installation: Installation) -> PrincipalRecord | None:
    made = principal(installation, Role.CONTRIBUTOR)
    principals.delete_principal(installation, ADMIN, who=made.uid)
    return made


@pytest.mark.parametrize("caller", [without_a_role, with_another_role, without_a_caller, of_a_principal_that_is_gone])
def test_operation_without_rights_of_the_caller_fails(home: Path, stopped: Installation, caller: Any) -> None:
    uid = leave(stopped, caller(stopped), "delete-gallery", DELETE_THEIRS)
    with start_api(home) as api:
        told = ended(api, uid)
        assert told.status is OperationStatus.FAILED
        assert told.error is not None
        assert told.error["code"] == "AuthorizationFailed"
        assert "was not resumed after a restart" in told.error["message"]
        assert told.request == {}
        assert stands(api)


def test_operation_with_revoked_tokens_fails(home: Path, stopped: Installation) -> None:
    who = principal(stopped, Role.CONTRIBUTOR)
    uid = leave(stopped, who, "delete-gallery", DELETE_THEIRS)
    principals.revoke_tokens(stopped, ADMIN, who=who.uid)
    with start_api(home) as api:
        told = ended(api, uid)
        assert told.status is OperationStatus.FAILED
        assert told.error is not None
        assert "can't be authorized any more" in told.error["message"]
        assert stands(api)


@pytest.mark.parametrize("half_made", [False, True])
def test_copy_requires_the_right_to_the_source(
    home: Path, stopped: Installation, tmp_path: Path, half_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller may write disks in one group, but may not read the bytes of another group."""
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=4 * MIB, content_bytes=MIB)
    secret = create_from_source(
        stopped, ADMIN, DiskRequest(group="secrets", name="secret", source=str(tmp_path / "disk.raw"))
    )
    who = principal(stopped, Role.CONTRIBUTOR)
    source = secret.resource_id
    if half_made:  # The row of the copy was committed, and then the process died.

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("imgstore.operations.disks.placed_disks.put_disk", die)
            with pytest.raises(KeyboardInterrupt):
                create_from_source(stopped, ADMIN, DiskRequest(group=OTHER, name="copy", source=source))
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": source}}
    body = {"location": secret.location, "properties": properties}
    request = {"kind": DiskKind.DISK.value, "group": OTHER, "disk": "copy", "body": body, "conditions": {}}
    uid = leave(stopped, who, "put-disk", request)
    with start_api(home) as api:
        told = ended(api, uid)
        assert told.status is OperationStatus.FAILED
        assert told.error is not None
        assert told.error["code"] == "AuthorizationFailed"
        with api.installation.catalog.reading() as transaction:
            copy = transaction.disks.get(api.installation.subscription, OTHER, "copy")
        assert (copy and copy.provisioning_state) == (ProvisioningState.CREATING if half_made else None)


def test_started_deletion_is_finished_without_the_caller(home: Path, stopped: Installation, tmp_path: Path) -> None:
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=4 * MIB, content_bytes=MIB)
    disk = create_from_source(stopped, ADMIN, DiskRequest(group=OTHER, name="old", source=str(tmp_path / "disk.raw")))
    with stopped.catalog.transaction() as transaction:
        assert transaction.disks.begin_deleting(disk.uid)
    request = {"kind": DiskKind.DISK.value, "group": OTHER, "disk": "old", "conditions": {}}
    uid = leave(stopped, principal(stopped), "delete-disk", request)
    with start_api(home) as api:
        assert ended(api, uid).status is OperationStatus.FAILED
        for _ in range(6_000):
            with api.installation.catalog.reading() as transaction:
                if transaction.disks.get(api.installation.subscription, OTHER, "old") is None:
                    return
            api.installation.effects.wait(0.01)
        raise AssertionError("it stays")


def test_completed_deletion_without_a_stored_result_succeeds(home: Path, stopped: Installation) -> None:
    request = {"group": OTHER, "gallery": "gone before", "conditions": {}}
    uid = leave(stopped, principal(stopped, Role.CONTRIBUTOR), "delete-gallery", request)
    with start_api(home) as api:
        assert ended(api, uid).status is OperationStatus.SUCCEEDED


def test_deployment_ends_with_the_operation(home: Path, stopped: Installation) -> None:
    uid = stopped.effects.new_uid()
    inner_id = (
        f"/subscriptions/{stopped.subscription}/resourceGroups/{OTHER}/providers/Microsoft.Resources/deployments/inner"
    )
    for name, holder in (
        ("outer", uid),
        ("inner", make_nested_uid(uid, inner_id)),
        ("another", stopped.effects.new_uid()),
    ):
        begin_deployment(stopped, ADMIN, group=OTHER, name=name, parameters={}, holder=holder)
    template = {"$schema": "s", "contentVersion": "1.0.0.0", "resources": []}
    request = {"group": OTHER, "deployment": "outer", "body": {"properties": {"template": template}}, "asked": {}}
    leave(stopped, principal(stopped), "put-deployment", {**request, "conditions": {}}, uid)
    with start_api(home) as api:
        assert ended(api, uid).status is OperationStatus.FAILED
        with api.installation.catalog.reading() as transaction:
            above = transaction.groups.get(api.installation.subscription, OTHER)
            assert above is not None
            states = {each.name: each.state for each in transaction.deployments.list(above.uid)}
        assert states == {
            "outer": DeploymentState.FAILED,
            "inner": DeploymentState.FAILED,
            "another": DeploymentState.RUNNING,
        }


def test_refused_request_stores_no_operation(tmp_path: Path) -> None:
    """A trigger of the database keeps each stored row, so the test sees also rows that were removed at once."""
    with start_api(tmp_path / "home") as api:
        api.found()
        theirs, mine = f"{api.top}/resourceGroups/{OTHER}", f"{api.top}/resourceGroups/mine"
        for made in (theirs, gallery(api), mine):
            assert api.ask("PUT", made, EMPTY).status == 201
        stranger = bearer(api, Role.CONTRIBUTOR, "mine")
        with closing(sqlite3.connect(tmp_path / "home" / "catalog.sqlite")) as database:
            database.execute("CREATE TABLE ever_stored AS SELECT kind, principal FROM operations WHERE 0")
            database.execute(
                "CREATE TRIGGER keep AFTER INSERT ON operations BEGIN "
                "INSERT INTO ever_stored VALUES (new.kind, new.principal); END"
            )
            database.commit()
        disks = f"{mine}/providers/Microsoft.Compute/disks"
        secret = f"{theirs}/providers/Microsoft.Compute/disks/secret"
        copy = {"createOption": "Copy", "sourceResourceId": secret}
        image = {"galleryImageReference": {"id": f"{api.definition}/versions/1.0.0"}, "createOption": "FromImage"}
        machine = {"storageProfile": {"osDisk": {"createOption": "Attach", "managedDisk": {"id": secret}}}}
        for method, path, body in (
            ("DELETE", gallery(api), None),
            ("DELETE", theirs, None),
            ("PUT", f"{gallery(api)}2", EMPTY),
            ("POST", f"{gallery(api)}/share", {"operationType": "Reset"}),
            ("PUT", f"{theirs}/providers/Microsoft.Resources/deployments/d", {"properties": {"template": {}}}),
            ("PUT", f"{disks}/c", EMPTY | {"properties": {"creationData": copy}}),
            ("PUT", f"{disks}/i", EMPTY | {"properties": {"creationData": image}}),
            ("PUT", f"{mine}/providers/Microsoft.Compute/virtualMachines/m", EMPTY | {"properties": machine}),
        ):
            answer = api.ask(method, path, body, headers=stranger)
            assert answer.status in {400, 403, 404, 204}, (method, path, answer)
        assert api.ask("DELETE", gallery(api)).status == 202
        with closing(sqlite3.connect(tmp_path / "home" / "catalog.sqlite")) as database:
            stored = database.execute("SELECT kind, principal FROM ever_stored").fetchall()
    assert stored == [("delete-gallery", "administrator")]


ELSEWHERE = "gone.example/00000000-0000-0000-0000-000000000000/1/1"
"""A process of another machine."""


def hand_over(installation: Installation, uid: str, *, lease_seconds: float) -> None:
    """Give the operation to a process of another machine, with a lease of this many seconds."""
    until = datetime.now(UTC) + timedelta(seconds=lease_seconds)
    with closing(sqlite3.connect(installation.home / "catalog.sqlite")) as database:
        values = (ELSEWHERE, until.strftime("%Y-%m-%d %H:%M:%S.%f"), uid)
        database.execute("UPDATE operations SET holder = ?, lease_expires_at = ? WHERE uid = ?", values)
        database.commit()


def test_operation_with_an_expired_lease_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running server resumes the operation. An operation with a renewed lease is left alone."""
    monkeypatch.setattr(application, "_RENEWAL_SECONDS", 0.2)
    with start_api(tmp_path / "home") as api:
        for path in (f"{api.top}/resourceGroups/{OTHER}", gallery(api)):
            assert api.ask("PUT", path, EMPTY).status == 201
        who = principal(api.installation, Role.CONTRIBUTOR)
        alive = leave(api.installation, who, "delete-group", {"group": "none"})
        hand_over(api.installation, alive, lease_seconds=3_600)
        gone = leave(api.installation, who, "delete-gallery", DELETE_THEIRS)
        hand_over(api.installation, gone, lease_seconds=-1)
        assert ended(api, gone).status is OperationStatus.SUCCEEDED
        assert not stands(api)
        with api.installation.catalog.reading() as transaction:
            left = transaction.operations.get(alive)
            assert left is not None
            assert (left.status, left.holder) == (OperationStatus.IN_PROGRESS, ELSEWHERE)


def make(api: Api, path: str, body: dict[str, Any]) -> None:
    answer = api.ask("PUT", path, body)
    assert answer.status < 300, answer
    if "azure-asyncoperation" in answer.headers:
        assert api.await_end(answer)["status"] == "Succeeded"


def disk_path(api: Api) -> str:
    return f"{api.top}/resourceGroups/{OTHER}/providers/Microsoft.Compute/disks/renewed"


def deployment_path(api: Api) -> str:
    return f"{api.top}/resourceGroups/{OTHER}/providers/Microsoft.Resources/deployments/renewed"


NOTHING: dict[str, Any] = {"properties": {"template": {"$schema": "s", "contentVersion": "1.0.0.0", "resources": []}}}


def empty_group_path(api: Api) -> str:
    return f"{api.top}/resourceGroups/renewed"


def definition_path(api: Api) -> str:
    return f"{gallery(api)}/images/renewed"


DEFINITION: dict[str, Any] = {
    "location": "southcentralus",
    "properties": {
        "osType": "Linux",
        "osState": "Generalized",
        "identifier": {"publisher": "p", "offer": "o", "sku": "s"},
    },
}
UPLOAD: dict[str, Any] = {
    "location": "southcentralus",
    "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": MIB + 512}},
}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (disk_path, UPLOAD),
        (gallery, EMPTY),
        (definition_path, DEFINITION),
        (deployment_path, NOTHING),
        (empty_group_path, EMPTY),
    ],
)
def test_resumed_deletion_keeps_a_new_resource_of_the_same_name(
    tmp_path: Path, path: Any, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server died after a deletion and before the result was stored. Then a new resource got the same name."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    home = tmp_path / "home"
    with start_api(home) as api:
        for made in (f"{api.top}/resourceGroups/{OTHER}", gallery(api)):
            assert api.ask("PUT", made, EMPTY).status == 201
        make(api, path(api), body)
        with monkeypatch.context() as patch:
            patch.setattr("imgstore.api.http.long_running.close_operation", die)
            assert api.ask("DELETE", path(api)).status == 503
        with api.installation.catalog.transaction() as transaction:
            (left,) = transaction.operations.list_in_progress()
            assert transaction.operations.take_over(left, DEAD)
        assert api.ask("GET", path(api)).status == 404, "it was deleted"
        make(api, path(api), body)
    with start_api(home) as api:
        assert ended(api, left.uid).status is OperationStatus.SUCCEEDED
        with api.installation.catalog.reading() as transaction:
            assert find_resource_uid(transaction, path(api)) is not None


@pytest.mark.parametrize(("path", "body"), [(disk_path, UPLOAD), (gallery, EMPTY), (definition_path, DEFINITION)])
def test_resumed_put_does_not_recreate_a_deleted_resource(
    tmp_path: Path, path: Any, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server died before the result of a PUT was stored. Then the resource was deleted."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    home = tmp_path / "home"
    with start_api(home) as api:
        assert api.ask("PUT", f"{api.top}/resourceGroups/{OTHER}", EMPTY).status == 201
        if path is definition_path:
            make(api, gallery(api), EMPTY)
        with monkeypatch.context() as patch:
            patch.setattr("imgstore.api.http.long_running.close_operation", die)
            api.ask("PUT", path(api), body)
        with api.installation.catalog.transaction() as transaction:
            (left,) = transaction.operations.list_in_progress()
            assert transaction.operations.take_over(left, DEAD)
        assert api.await_end(api.ask("DELETE", path(api)))["status"] == "Succeeded"
    with start_api(home) as api:
        assert ended(api, left.uid).status is OperationStatus.CANCELED
        with api.installation.catalog.reading() as transaction:
            assert find_resource_uid(transaction, path(api)) is None
