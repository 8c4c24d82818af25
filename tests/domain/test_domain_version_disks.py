"""The keys of a version's disks, their order, and what a work packs each under."""

import uuid

from imgstore.domain.disks.version_disks import DISK_KEYS, disk_key, format_disk_keys, lun_of, sort_disk_keys
from imgstore.domain.storage import object_keys

WORK = "01234567-89ab-4def-8123-456789abcdef"


def test_a_key_says_the_lun() -> None:
    assert [disk_key(lun) for lun in (None, 0, 63)] == ["os", "lun-0", "lun-63"]
    assert [lun_of(key) for key in ("os", "lun-0", "lun-63")] == [None, 0, 63]
    assert len(set(DISK_KEYS)) == 65


def test_the_os_disk_comes_first_and_then_the_luns_as_numbers() -> None:
    assert sort_disk_keys(["lun-10", "os", "lun-9", "lun-0"]) == ["os", "lun-0", "lun-9", "lun-10"]
    assert format_disk_keys(["lun-10", "os", "lun-9"]) == "the OS disk and data disks at LUN 9, 10"
    assert format_disk_keys(["os"]) == "the OS disk alone"


def test_what_a_disk_is_packed_under_is_at_rest() -> None:
    """Manifests name it: the work itself for the OS disk, as ever, and the same uid on every machine for a data disk."""
    assert object_keys.packing_uid(WORK, "os") == WORK
    assert object_keys.packing_uid(WORK, "lun-0") == "72cde528-d0f5-e1ba-81ae-a82941ee2612"
    uids = object_keys.packing_uids(WORK)
    assert len(uids) == 65
    assert all(str(uuid.UUID(uid)) == uid for uid in uids)
