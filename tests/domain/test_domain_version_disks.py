"""Disk keys of a version, the order of the keys, and the packing uids."""

import uuid

from imgstore.domain.disks.version_disks import DISK_KEYS, disk_key, format_disk_keys, lun_of, sort_disk_keys
from imgstore.domain.storage import object_keys

WORK = "01234567-89ab-4def-8123-456789abcdef"


def test_disk_key_contains_the_lun() -> None:
    assert [disk_key(lun) for lun in (None, 0, 63)] == ["os", "lun-0", "lun-63"]
    assert [lun_of(key) for key in ("os", "lun-0", "lun-63")] == [None, 0, 63]
    assert len(set(DISK_KEYS)) == 65


def test_disk_keys_sort_with_the_os_disk_first_then_by_number() -> None:
    assert sort_disk_keys(["lun-10", "os", "lun-9", "lun-0"]) == ["os", "lun-0", "lun-9", "lun-10"]
    assert format_disk_keys(["lun-10", "os", "lun-9"]) == "the OS disk and data disks at LUN 9, 10"
    assert format_disk_keys(["os"]) == "the OS disk alone"


def test_packing_uids_are_constant() -> None:
    """Stored manifests contain the uid: the uid of the work for the OS disk, and a derived uid for a data disk."""
    assert object_keys.packing_uid(WORK, "os") == WORK
    assert object_keys.packing_uid(WORK, "lun-0") == "72cde528-d0f5-e1ba-81ae-a82941ee2612"
    uids = object_keys.packing_uids(WORK)
    assert len(uids) == 65
    # Invariant B2.
    assert all(str(uuid.UUID(uid)) == uid for uid in uids)
