"""Tests of the choice of old versions that garbage collection may delete."""

import pytest

from imgstore.domain.storage import object_keys
from imgstore.policy.old_versions import is_own_key
from imgstore.stores.access import PROBES

SLOT = "pools/0b5c/Standard_ZRS/replica-12/"
OWN = (
    object_keys.FORMAT_KEY,
    SLOT + object_keys.segment_key(bytes(range(32))),
    SLOT + object_keys.manifest_key("u", "os"),
    SLOT + object_keys.manifest_key("u", "lun-3"),
    SLOT + object_keys.fingerprints_key("u"),
    SLOT + object_keys.work_key("u"),
    SLOT + object_keys.owner_revision_key("u", 7),
    object_keys.installation_revision_key("zones", "eastus/1", 7),
    object_keys.zone_uid_key("u"),
    object_keys.checkpoint_key("00000000000000000001-u"),
    f"{object_keys.REPAIRS}1/{'0f' * 32}",
    f"{PROBES}u",
    f"{PROBES}u/source",
)
FOREIGN = (
    "FORMAT.txt",
    "pools/1.jpg",
    "pools/north/2026/plan.pdf",
    "pools/a/Standard_LRS/replica-1/notes.txt",
    "pools/a/Standard_LRS/replica-1/segments/readme",
    "pools/a/Archive/replica-1/works/u",
    "backup/pools/a/Standard_LRS/replica-1/works/u",
    "zone/map.svg",
    "zone/uid/a/b",
    "installation/guide.pdf",
    "installation/groups/a/12",
    "pools/a/Standard_LRS/replica-1/owners/u/12",
    "repairs/car-7.pdf",
    "imgstore-probe",
)


@pytest.mark.parametrize("key", OWN)
def test_own_keys(key: str) -> None:
    assert is_own_key(key)


@pytest.mark.parametrize("key", FOREIGN)
def test_keys_of_other_programs(key: str) -> None:
    """Invariant G17: the old versions of such keys are never deleted."""
    assert not is_own_key(key)
