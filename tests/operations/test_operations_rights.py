"""Every operation with a principal authorizes first: the command line and the server call the same operations."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imgstore import operations
from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.errors import AccessDenied, NotFound, ScopeNotFound
from imgstore.domain.identity.access import Action, Grant, Principal, Role
from imgstore.domain.identity.principals import PrincipalKind
from imgstore.domain.names import ImageReference, SharedReference, VersionName, disk_id
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import (
    DiskOfImageRequest,
    DiskRequest,
    ImageRequest,
    MachineRequest,
    ScaleSetRequest,
    ScrubRequest,
    UploadRequest,
    VersionSource,
)
from imgstore.domain.resources import DiskKind, OsType, VersionUpdate
from imgstore.ledger.budgets import AtLimit
from imgstore.ledger.statements.focus import FocusVersion
from imgstore.operations.gallery import galleries
from imgstore.operations.installation import Installation
from imgstore.operations.network_records import NetworkScope
from imgstore.operations.scale_sets.rolling_update import RolloutRequest
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home, request

REFERENCE = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0")
NAMES = {
    "galleries": GALLERY,
    "definitions": DEFINITION,
    "groups": GROUP,
}
"""The name of an existing resource, by module; elsewhere it is that of a disk."""
VALUES: dict[str, Any] = {
    "group": GROUP,
    "gallery": GALLERY,
    "definition": DEFINITION,
    "version": VersionName.parse("1.0.0"),
    "reference": REFERENCE,
    "location": "southcentralus",
    "publisher": "p",
    "offer": "o",
    "sku": "s",
    "os_type": OsType.LINUX,
    "grace": timedelta(0),
    "within": timedelta(1),
    "to": "sqlite:///none",
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    "events_max": 1,
    "overlay": Path("none"),
    "opened": SimpleNamespace(source=disk_id("11111111-1111-1111-1111-111111111111", "none", "none")),
    "virtual_bytes": 4096,
    "blocks": (0,),
    "regions": ["southcentralus"],
    "keys": None,
    "entry": "none",
    "corrected_bytes": 1,
    "reason": "test",
    "expected": "an entry",
    "hint": "name another entry",
    "report": None,
    "tags": {},
    "parameters": {},
    "holder": "holder",
    "uid": "none",
    "offset": 0,
    "length": 512,
    "level": AccessLevel.READ,
    "duration_seconds": 60,
    "server_url": "https://localhost",
    "kind": DiskKind.DISK,
    "minutes": 5,
    "pattern": "x",
    "seconds": 1.0,
    "action": Action.START,
    "disk": "none",
    "by": "region",
    "change": lambda each: each,
    "update": VersionUpdate(),
    "interval_seconds": 1.0,
    "timeout_seconds": 1.0,
    "until": lambda _view: True,
    "role": Role.READER,
    "url": "https://issuer.example",
    "issuer": "https://issuer.example",
    "audience": "a",
    "jwks": "https://issuer.example/keys",
    "subject": "s",
    "proof": None,
    "amount": Decimal(1),
    "at_limit": AtLimit.WARN,
    "focus": FocusVersion.V1_2,
    "passphrase": "correct horse battery",
    "dry_run": True,
    "who": "somebody",
    "planned": (),
    "pool_uid": "none",
    "unique_name": "none",
    "public_name": "none",
    "instance_ids": [0],
    "instance_id": 0,
    "rollout": RolloutRequest(),
    "capacity": 1,
    "place": NetworkScope(group=GROUP, type="Microsoft.Network/virtualNetworks", name="net"),
}
REQUESTS: dict[str, Any] = {
    "create_image": ImageRequest(group=GROUP, name="x", source="x"),
    "create_scale_set": ScaleSetRequest(group=GROUP, name="x", image="x"),
    "create_machine": MachineRequest(group=GROUP, name="x", image="x"),
    "create_from_source": DiskRequest(group=GROUP, name="x", source="x"),
    "commit_disk": DiskRequest(group=GROUP, name="x", source="none"),
    "commit_version": request(),
    "create_upload": UploadRequest(group=GROUP, name="x", upload_bytes=1024),
    "create_disk": DiskOfImageRequest(group=GROUP, name="x", reference=REFERENCE),
    "forecast_image_disk": DiskOfImageRequest(group=GROUP, name="x", reference=REFERENCE),
    "forecast_source_disk": DiskRequest(group=GROUP, name="x", source="x"),
    "forecast_version_creation": request(source=VersionSource(os_vhd_uri="none.vhd")),
    "create_version": request(source=VersionSource(os_vhd_uri="none.vhd")),
    "publish_readers": request(),
    "publish_reader": request(),
    "scrub": ScrubRequest(),
}
"""By operation; others take a page."""
KINDS = {"list_principals": PrincipalKind.USER, "page_network_records": "Microsoft.Network/virtualNetworks"}
INSIDE = {
    "permit", "permit_list", "record_activity", "record_resource_deletion", "permit_group", "authorize_interfaces", "find_image",
    "find_machine", "find_attachable", "move_disks", "find_original", "authorize_source", "make_disks", "make_disks_of_readers", "make_rows", "open_overlaid_disk", "open_disks", "open_files",
    "open_stored_disks", "admit_reader", "forecast_of", "change_model", "check_model_change", "roll_out", "reimage_instances", "find_source", "authorize_instances", "change_capacity",
}  # fmt: skip
"""Steps of operations, which check the rights of what they name, within an operation that checks its own."""
EMPTY = {"list_assignments", "list_visible_subscriptions"}
"""Lists that show a principal without a role nothing."""
ABOUT_THE_CALLER = {"tenant_of", "free_group_name", "is_caller"}
AS_MISSING = {"remove"}
"""To who may not, what there is is missing."""
NOT_ALONE = {"run_bench", "plan_bench", "run"}
"""Made of other operations."""


LISTS_OF_ALL = {
    "list_operations", "list_disks", "page_disks", "list_galleries", "page_galleries", "list_groups", "page_groups",
    "list_images", "page_images", "page_network_records", "list_machines", "page_machines", "list_scale_sets", "page_scale_sets",
}  # fmt: skip
"""Of the whole subscription: who has a role in it sees what the role lets."""


def find_operations() -> dict[str, Callable[..., Any]]:
    """Find every public function of the operations that takes a principal, by its module and name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.walk_packages(operations.__path__, f"{operations.__name__}."):
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            if not inspect.isfunction(value) or value.__module__ != loaded.__name__ or name.startswith("_"):
                continue
            if "principal" in inspect.signature(value).parameters:
                found[f"{module.name.removeprefix(f'{operations.__name__}.')}.{name}"] = value
    plain = {name.rpartition(".")[2] for name in found}
    named = INSIDE | ABOUT_THE_CALLER | NOT_ALONE | EMPTY | AS_MISSING | LISTS_OF_ALL
    assert len(plain) == len(found), "two operations have one name"
    assert named <= plain, f"no such operations: {sorted(named - plain)}"
    left_out = INSIDE | ABOUT_THE_CALLER | NOT_ALONE
    return {name: each for name, each in found.items() if name.rpartition(".")[2] not in left_out}


FOUND = find_operations()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with open_home(tmp_path_factory.mktemp("rights") / "home") as installation:
        create_sample_gallery(installation)
        galleries.create_gallery(installation, ADMIN, group="near", name="near", location="southcentralus")
        yield installation


@pytest.mark.parametrize("neighbour", [False, True])
@pytest.mark.parametrize("name", FOUND)
def test_caller_without_the_right_is_refused(home: Installation, tmp_path: Path, name: str, neighbour: bool) -> None:
    """Refuse a caller without a role and a caller with a role on another group before any lookup."""
    near = Grant(role=Role.OWNER, scope=f"/subscriptions/{home.subscription}/resourceGroups/near")
    caller = Principal(name="ann", uid="7", grants=(near,) if neighbour else ())
    operation = FOUND[name]
    arguments = dict(arguments_of(operation, name, home, tmp_path))
    plain = name.rpartition(".")[2]
    if plain in EMPTY:
        assert neighbour or operation(home, caller, **arguments) == []
        return
    if neighbour and plain in LISTS_OF_ALL:
        operation(home, caller, **arguments)
        return
    # Invariant H4.
    with pytest.raises(NotFound if plain in AS_MISSING else (AccessDenied, ScopeNotFound)):
        done = operation(home, caller, **arguments)
        if isinstance(done, AbstractContextManager):
            with done:
                pass


def arguments_of(
    operation: Callable[..., Any], name: str, home: Installation, folder: Path
) -> Iterator[tuple[str, Any]]:
    """Values for what an operation must be given."""
    *_, module, plain = name.split(".")
    for key, parameter in inspect.signature(operation).parameters.items():
        if key in ("installation", "principal") or parameter.default is not parameter.empty:
            continue
        if key == "request":
            yield key, REQUESTS.get(plain, PageRequest())
        elif key == "name":
            yield key, NAMES.get(module, "x")
        elif key == "kind":
            yield key, KINDS.get(plain, DiskKind.DISK)
        elif key == "path":
            yield key, folder / "out.vhd"
        elif key == "scope":
            yield key, f"/subscriptions/{home.subscription}/resourceGroups/{GROUP}"
        elif key == "assignee":
            yield key, "somebody"
        elif key == "reference" and module == "sharing":
            yield key, SharedReference(gallery="none", community=False, definition="any")
        elif key in ("reader", "readers"):
            yield key, {}
        else:
            yield key, VALUES[key]
