"""JSON formats, compared with hand-written copies of Azure's specification of 2023-07-03 and of recorded traffic."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from imgstore.domain.disks.disk_performance import performance_of, sku_tier
from imgstore.domain.disks.sources import DiskFormat, SourceIdentity
from imgstore.domain.disks.version_disks import HostCaching, VersionDisk
from imgstore.domain.errors import ImageNotAvailable, InvalidInput
from imgstore.domain.names import VersionName
from imgstore.domain.resources import (
    Feature,
    Gallery,
    Group,
    ImageDefinition,
    ImageVersion,
    ManagedDisk,
    OsType,
    Replica,
    Slot,
    SlotKey,
    StorageAccountType,
    TargetRegion,
)
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.wire.errors import error_json
from imgstore.wire.json_text import Json
from imgstore.wire.responses.replication import replication_status_json
from imgstore.wire.responses.resources import (
    definition_json,
    disk_json,
    gallery_json,
    group_json,
    soft_deleted_json,
    version_json,
)

NOW = datetime(2018, 1, 1, tzinfo=UTC)
SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
ENVELOPE = ["name", "id", "type", "location", "tags", "properties"]
DISPLAY = {"westus": "West US", "eastus": "East US"}
LRS, ZRS = StorageAccountType.STANDARD_LRS, StorageAccountType.STANDARD_ZRS

GALLERY = Gallery(
    uid="g", subscription=SUBSCRIPTION, group="rg", name="myGallery", location="westus", pool_uid="p", created_at=NOW
)
DEFINITION = ImageDefinition(
    uid="d", gallery_uid="g", name="ubuntu", location="westus", publisher="p", offer="o", sku="s",
    os_type=OsType.LINUX, created_at=NOW,
)  # fmt: skip
TARGETS = (
    TargetRegion(name="westus", regional_replica_count=1, storage_account_type=LRS),
    TargetRegion(name="eastus", regional_replica_count=2, storage_account_type=ZRS),
)
OS_DISK_IMAGE = VersionDisk(
    source=SourceIdentity(location="/images/disk.vhd", file_bytes=10, stamp=""),
    virtual_bytes=10 * 2**30 + 512, disk_digest=b"\x01" * 32,
)  # fmt: skip
VERSION = ImageVersion(
    uid="v", definition_uid="d", name=VersionName(1, 0, 0), location="westus", target_regions=TARGETS,
    disks=(OS_DISK_IMAGE,), published_at=NOW, provisioning_state=ProvisioningState.SUCCEEDED,
)  # fmt: skip


def replica(region: str, ordinal: int, state: ReplicaState, done: int = 0, total: int = 0, **rest: Any) -> Replica:
    key = SlotKey(pool_uid="p", region=region, storage_account_type=LRS, ordinal=ordinal)
    slot = Slot(uid=f"s-{region}-{ordinal}", key=key, zone="1", bucket="b")
    return Replica(uid="r", version_uid="v", slot=slot, state=state, bytes_done=done, bytes_total=total, **rest)


def view(version: ImageVersion = VERSION, replicas: Sequence[Replica] = ()) -> VersionView:
    return VersionView(
        version=version,
        replicas=tuple(replicas),
        definition_path=DefinitionPath(gallery=GALLERY, definition=DEFINITION),
    )


def status(*replicas: Replica) -> Json:
    return replication_status_json(TARGETS, replicas, DISPLAY)


def test_group() -> None:
    group = Group(uid="g", subscription=SUBSCRIPTION, name="rg", location="westus", tags={"a": "b"}, created_at=NOW)
    body = group_json(group)
    assert list(body) == ENVELOPE
    assert body["id"] == f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
    assert body["type"] == "Microsoft.Resources/resourceGroups"
    assert body["tags"] == {"a": "b"}


def test_gallery() -> None:
    body = gallery_json(GALLERY)
    assert list(body) == ENVELOPE
    assert body["id"].endswith("/resourceGroups/rg/providers/Microsoft.Compute/galleries/myGallery")
    assert body["tags"] == {}
    assert body["properties"] == {
        "identifier": {"uniqueName": f"{SUBSCRIPTION}-MYGALLERY"},
        "softDeletePolicy": {"isSoftDeleteEnabled": False, "retentionPeriodInDays": 7},
        "provisioningState": "Succeeded",
    }
    described = gallery_json(replace(GALLERY, description="golden"))["properties"]
    assert list(described) == ["description", "identifier", "softDeletePolicy", "provisioningState"]


def test_definition() -> None:
    body = definition_json(DEFINITION, GALLERY)
    assert list(body) == ENVELOPE
    assert body["id"].endswith("/galleries/myGallery/images/ubuntu")
    assert body["type"] == "Microsoft.Compute/galleries/images"
    assert body["properties"] == {
        "osType": "Linux",
        "osState": "Generalized",
        "hyperVGeneration": "V1",
        "architecture": "x64",
        "identifier": {"publisher": "p", "offer": "o", "sku": "s"},
        "provisioningState": "Succeeded",
    }


def test_version_has_azures_fields_in_azures_order() -> None:
    body = version_json(view(), DISPLAY)
    assert list(body) == ENVELOPE
    assert body["name"] == "1.0.0"
    assert body["id"].endswith("/galleries/myGallery/images/ubuntu/versions/1.0.0")
    assert body["type"] == "Microsoft.Compute/galleries/images/versions"
    assert body["location"] == "westus"
    properties = body["properties"]
    assert list(properties) == ["publishingProfile", "storageProfile", "safetyProfile", "provisioningState"]
    profile = properties["publishingProfile"]
    assert profile["targetRegions"] == [
        {
            "name": "West US",
            "regionalReplicaCount": 1,
            "storageAccountType": "Standard_LRS",
            "excludeFromLatest": False,
        },
        {
            "name": "East US",
            "regionalReplicaCount": 2,
            "storageAccountType": "Standard_ZRS",
            "excludeFromLatest": False,
        },
    ]
    assert profile["replicaCount"] == 1
    assert profile["excludeFromLatest"] is False
    assert profile["publishedDate"] == "2018-01-01T00:00:00.0000000+00:00"
    assert profile["storageAccountType"] == "Standard_LRS"
    disk = properties["storageProfile"]["osDiskImage"]
    assert disk["sizeInGB"] == 11, "sizes are rounded up to GiB"
    assert disk["sizeInBytes"] == OS_DISK_IMAGE.virtual_bytes
    assert disk["hostCaching"] == "ReadWrite"
    assert disk["source"] == {"uri": "/images/disk.vhd"}
    assert properties["safetyProfile"] == {
        "reportedForPolicyViolation": False,
        "allowDeletionOfReplicatedLocations": True,
        "blockDeletionBeforeEndOfLife": False,
    }


def test_end_of_life_of_a_version_is_shown() -> None:
    kept = replace(
        VERSION,
        end_of_life_at=NOW,
        allow_deletion_of_replicated_locations=False,
        block_deletion_before_end_of_life=True,
    )
    properties = version_json(view(kept), DISPLAY)["properties"]
    assert properties["publishingProfile"]["endOfLifeDate"] == "2018-01-01T00:00:00.0000000+00:00"
    assert properties["safetyProfile"] == {
        "reportedForPolicyViolation": False,
        "allowDeletionOfReplicatedLocations": False,
        "blockDeletionBeforeEndOfLife": True,
    }


def test_soft_deleted_version_shows_the_hard_deletion_time() -> None:
    gone = replace(VERSION, soft_deleted_at=NOW, hard_deletion_at=NOW.replace(day=8))
    body = soft_deleted_json(view(gone))
    assert list(body) == ENVELOPE
    assert body["properties"] == {
        "resourceArmId": view().definition_path.version_id(VERSION.name),
        "softDeletedArtifactType": "Images",
        "softDeletedTime": "2018-01-01T00:00:00.0000000+00:00",
        "hardDeletionTargetTime": "2018-01-08T00:00:00.0000000+00:00",
    }


def test_unknown_values_are_left_out() -> None:
    disk = replace(OS_DISK_IMAGE, virtual_bytes=None, disk_digest=None)
    young = replace(VERSION, disks=(disk,), provisioning_state=ProvisioningState.CREATING)
    body = version_json(view(young), DISPLAY)
    assert list(body["properties"]["storageProfile"]["osDiskImage"]) == ["hostCaching", "source"]
    assert body["properties"]["provisioningState"] == "Creating"


def test_data_disks_are_listed_by_lun() -> None:
    source = SourceIdentity(location="https://host/data.vhd?sig=secret", file_bytes=1, stamp="")
    data = VersionDisk(lun=5, source=source, host_caching=HostCaching.READ_ONLY)
    other = replace(data, lun=7, host_caching=HostCaching.NONE, virtual_bytes=2**30, disk_digest=b"\x03" * 32)
    body = version_json(view(replace(VERSION, disks=(OS_DISK_IMAGE, data, other))), DISPLAY)
    assert body["properties"]["storageProfile"]["dataDiskImages"] == [
        {"lun": 5, "hostCaching": "ReadOnly", "source": {"uri": "https://host/data.vhd"}},
        {
            "lun": 7,
            "sizeInGB": 1,
            "sizeInBytes": 2**30,
            "diskDigest": "03" * 32,
            "hostCaching": "None",
            "source": {"uri": "https://host/data.vhd"},
        },
    ]
    assert list(version_json(view(), DISPLAY)["properties"]["storageProfile"]) == ["osDiskImage"]


def test_signed_url_is_shown_without_the_signature() -> None:
    source = SourceIdentity(location="https://me:secret@host:8443/a/disk.vhd?sig=secret", file_bytes=1, stamp="")
    body = version_json(view(replace(VERSION, disks=(replace(OS_DISK_IMAGE, source=source),))), DISPLAY)
    assert body["properties"]["storageProfile"]["osDiskImage"]["source"] == {"uri": "https://host:8443/a/disk.vhd"}
    odd = SourceIdentity(location="/images/what?.vhd", file_bytes=1, stamp="")
    body = version_json(view(replace(VERSION, disks=(replace(OS_DISK_IMAGE, source=odd),))), DISPLAY)
    assert body["properties"]["storageProfile"]["osDiskImage"]["source"] == {"uri": "/images/what?.vhd"}


def test_replication_status_of_a_finished_version() -> None:
    replicas = [
        replica("westus", 0, ReplicaState.COMPLETED, 5, 5),
        replica("eastus", 1, ReplicaState.COMPLETED, 0, 0),
        replica("eastus", 0, ReplicaState.COMPLETED, 5, 5),
    ]
    body = version_json(view(replicas=replicas), DISPLAY, replication_status=True)
    assert list(body["properties"]) == [
        "publishingProfile", "storageProfile", "safetyProfile", "replicationStatus", "provisioningState",
    ]  # fmt: skip
    found = body["properties"]["replicationStatus"]
    assert found["aggregatedState"] == "Completed"
    assert [list(region)[:4] for region in found["summary"]] == [["region", "state", "details", "progress"]] * 2
    assert [region["region"] for region in found["summary"]] == ["West US", "East US"]
    assert {region["progress"] for region in found["summary"]} == {100}, "a replica without bytes is 100% complete"
    assert [each["replica"] for each in found["summary"][1]["replicas"]] == [0, 1]


def test_replication_status_while_bytes_move() -> None:
    found = status(
        replica("westus", 0, ReplicaState.COMPLETED, 5, 5),
        replica("eastus", 0, ReplicaState.REPLICATING, 50, 200),
        replica("eastus", 1, ReplicaState.PENDING),
    )
    assert found["aggregatedState"] == "InProgress"
    east = found["summary"][1]
    assert (east["state"], east["progress"], east["bytesDone"], east["bytesTotal"]) == ("Replicating", 0, 50, 200)
    assert [(each["state"], each["progress"]) for each in east["replicas"]] == [("Replicating", 25), ("Pending", 0)]


def test_replica_with_all_bytes_sent_is_not_complete() -> None:
    found = status(replica("westus", 0, ReplicaState.REPLICATING, 7, 7))
    assert found["summary"][0]["progress"] == 99


@pytest.mark.parametrize("state", [ReplicaState.FAILED, ReplicaState.DEGRADED])
def test_region_with_a_failed_replica_is_failed_with_details(state: ReplicaState) -> None:
    found = status(
        replica("westus", 0, ReplicaState.COMPLETED),
        replica("eastus", 0, ReplicaState.COMPLETED),
        replica("eastus", 1, state, error="no answer from zone 1"),
    )
    assert found["aggregatedState"] == "Failed"
    assert found["summary"][1]["state"] == "Failed"
    assert found["summary"][1]["details"] == "replica 1: no answer from zone 1"


def test_region_without_replicas_is_unknown_and_deleted_replicas_are_hidden() -> None:
    found = status(
        replica("westus", 0, ReplicaState.COMPLETED),
        replica("westus", 1, ReplicaState.DELETING),
        replica("northeurope", 0, ReplicaState.COMPLETED),
    )
    assert [(each["region"], each["state"], each["progress"]) for each in found["summary"]] == [
        ("West US", "Completed", 100),
        ("East US", "Unknown", 0),
    ]
    assert len(found["summary"][0]["replicas"]) == 1
    assert found["aggregatedState"] == "Unknown"


def test_disk_shows_the_replica() -> None:
    slot = replica("westus", 2, ReplicaState.COMPLETED).slot
    disk = ManagedDisk(
        uid="m", subscription=SUBSCRIPTION, group="rg", name="d1", location="westus", source_version_uid="v",
        source_reference="/subscriptions/x/the/version", body_key="manifests/v/os", replica=2, slot=slot, storage_account_type=ZRS,
        virtual_bytes=2**30, disk_digest=b"\x02" * 32, created_at=NOW,
        provisioning_state=ProvisioningState.SUCCEEDED, source_format=DiskFormat.RAW,
    )  # fmt: skip
    body = disk_json(disk)
    assert list(body) == ["name", "id", "type", "location", "tags", "sku", "replica", "properties"]
    assert body["replica"] == 2
    assert body["sku"] == {"name": "Standard_ZRS", "tier": "Standard"}
    assert body["type"] == "Microsoft.Compute/disks"
    properties = body["properties"]
    assert properties["creationData"] == {
        "createOption": "FromImage",
        "galleryImageReference": {"id": "/subscriptions/x/the/version"},
    }
    assert (properties["diskSizeGB"], properties["diskSizeBytes"]) == (1, 2**30)
    assert properties["diskDigest"] == "02" * 32
    of_data_disk = disk_json(replace(disk, source_lun=0))["properties"]["creationData"]
    assert of_data_disk["galleryImageReference"] == {"id": "/subscriptions/x/the/version", "lun": 0}


@pytest.mark.parametrize(
    ("sku", "gib", "tier", "requests", "mib"),
    [
        ("Premium_LRS", 1, "P1", 120, 25),
        ("Premium_LRS", 64, "P6", 240, 50),
        ("Premium_LRS", 65, "P10", 500, 100),
        ("Premium_LRS", 40_000, "P80", 20_000, 900),
        ("Standard_LRS", 30, None, 500, 60),
        ("Standard_ZRS", 4_097, None, 1_300, 300),
        ("StandardSSD_LRS", 30, None, 500, 100),
    ],
)
def test_performance_of_a_disk_is_azures(sku: str, gib: int, tier: str | None, requests: int, mib: int) -> None:
    found = performance_of(sku, gib * 2**30)
    assert (found.tier, found.requests_per_second, found.mib_per_second) == (tier, requests, mib)
    assert sku_tier(sku) == sku.partition("_")[0].removesuffix("SSD")


def test_feature_is_shown_in_azures_spelling() -> None:
    features = (
        Feature(name="securitytype", value="trustedlaunch"),
        Feature(name="DISKCONTROLLERTYPES", value="scsi, nvme"),
        Feature(name="Other", value="as Typed"),
    )
    shown = definition_json(replace(DEFINITION, features=features), GALLERY)["properties"]["features"]
    assert [(each["name"], each["value"]) for each in shown] == [
        ("SecurityType", "TrustedLaunch"),
        ("DiskControllerTypes", "SCSI, NVMe"),
        ("Other", "as Typed"),
    ]


def test_statement_rows_have_the_documented_keys() -> None:
    from imgstore.ledger.entries import ChargeKind
    from imgstore.ledger.statements.statement import Statement, StatementRow, Total
    from imgstore.wire.responses.statement import statement_json

    row = StatementRow(
        kind=ChargeKind.EGRESS, group="rg", gallery="g", definition="d", version="1.0.0", disk=None, source="westus",
        target="eastus", replica=0, delivered_bytes=10**9, byte_hours=Decimal(0), unit_price=Decimal("0.02"),
        amount=Decimal("0.02"), currency="USD", month="2026-11", time=NOW,
    )  # fmt: skip
    only_a_disk = replace(row, kind=ChargeKind.STORAGE, gallery=None, definition=None, version=None, disk="d1")
    total = Total(currency="USD", amount=Decimal("0.04"), due=Decimal("0.04"))
    body = statement_json(Statement(totals=(total,), rows=(row, only_a_disk)))
    promised = [
        "kind", "group", "gallery", "definition", "version", "disk", "source", "target", "replica", "deliveredBytes",
        "byteHours", "unitPrice", "amount", "currency", "month", "time", "entries",
    ]  # fmt: skip
    assert list(body) == ["currency", "total", "due", "totals", "rounding", "rows"]
    assert [list(each) for each in body["rows"]] == [promised, promised]
    assert body["rows"][0]["amount"] == "0.02"
    assert sum(Decimal(each["amount"]) for each in body["rows"]) == Decimal(body["total"])


def test_errors_use_arms_envelope() -> None:
    error = InvalidInput("Bad.", found="x", expected="y", hint="z", target="galleryName")
    assert error_json(error) == {
        "error": {
            "code": "InvalidParameter",
            "message": "Bad.\n  found: x\n  expected: y\n  what to do: z",
            "target": "galleryName",
        }
    }
    assert list(error_json(ImageNotAvailable("No."))["error"]) == ["code", "message"]


def test_speed_and_time_left_come_from_the_rows() -> None:
    times = {"started_at": NOW, "progress_at": NOW + timedelta(seconds=4)}
    found = status(
        replica("westus", 0, ReplicaState.COMPLETED, 10, 10, **times),
        replica("eastus", 0, ReplicaState.REPLICATING, 400, 1000, **times),
        replica("eastus", 1, ReplicaState.REPLICATING, 100, 1000, **times),
    )
    west, east = found["summary"]
    assert (west["bytesPerSecond"], west["etaSeconds"]) == (0, None)
    assert [(each["bytesPerSecond"], each["etaSeconds"]) for each in east["replicas"]] == [(100, 6), (25, 36)]
    assert (east["bytesPerSecond"], east["etaSeconds"]) == (125, 36)
    begun = status(replica("eastus", 0, ReplicaState.REPLICATING, 0, 1000, started_at=NOW, progress_at=NOW))
    assert begun["summary"][1]["etaSeconds"] is None


def test_pending_replica_shows_the_reason() -> None:
    nowhere = status(replica("westus", 0, ReplicaState.REPLICATING), replica("eastus", 0, ReplicaState.PENDING))
    assert nowhere["summary"][1]["details"] == "replica 0: waits for the source region"
    failed = replica("eastus", 0, ReplicaState.FAILED, error="no answer", retry_at=NOW)
    found = status(replica("westus", 0, ReplicaState.COMPLETED), failed)
    expected = "replica 0: no answer (a worker tries again at 2018-01-01T00:00:00.0000000+00:00)"
    assert found["summary"][1]["details"] == expected


def test_replica_on_a_cheapest_route_names_the_parent_until_the_parent_is_complete() -> None:
    child = replica("westus", 0, ReplicaState.PENDING, parent_region="eastus")
    for state, details in (
        (ReplicaState.REPLICATING, "replica 0: waits for the replica in eastus, on the cheapest route"),
        (ReplicaState.COMPLETED, ""),
    ):
        found = status(replica("northeurope", 0, ReplicaState.COMPLETED), replica("eastus", 0, state), child)
        assert found["summary"][0]["details"] == details
