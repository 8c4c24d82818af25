"""The bytes of a subscription, counted by both engines."""

from dataclasses import replace

from catalog_values import SUBSCRIPTION, disk, settle, version

from imgstore.catalog import Catalog
from imgstore.domain.resources import DiskKind, ImageVersion
from imgstore.domain.storage.sizes import GIB

pytest_plugins = ["catalog_fixtures"]


def sized(made: ImageVersion, *, expected: int | None, known: int | None) -> ImageVersion:
    disks = (replace(each, expected_bytes=expected, virtual_bytes=known) for each in made.disks)
    return replace(made, disks=tuple(disks))


def test_versions_and_contents_count_once(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        assert transaction.quotas.used_bytes(SUBSCRIPTION) == 0, "what an older imgstore has not sized yet"
        above = world.definition.uid
        transaction.versions.add(sized(version(above, "1.0.1"), expected=1, known=2 * GIB))
        transaction.versions.add(sized(version(above, "1.0.2"), expected=3 * GIB, known=None))
        assert transaction.quotas.used_bytes(SUBSCRIPTION.upper()) == 2 * (2 + 3) * GIB, (
            "an OS disk and a data disk each"
        )
        before = transaction.quotas.used_bytes(SUBSCRIPTION)
        transaction.disks.add(disk(world.slot, "own", source_version_uid=world.version.uid))
        assert transaction.quotas.used_bytes(SUBSCRIPTION) == before, "the version's"
        for name, kind, key in (
            ("a", DiskKind.DISK, "k1"),
            ("a", DiskKind.SNAPSHOT, "k1"),
            ("b", DiskKind.DISK, "k2"),
        ):
            transaction.disks.add(
                disk(world.slot, name, kind=kind, body_key=key, virtual_bytes=GIB, source_version_uid=None)
            )
        assert transaction.quotas.used_bytes(SUBSCRIPTION) == before + 2 * GIB
        assert transaction.quotas.used_bytes("00000000-0000-0000-0000-000000000000") == 0
        transaction.quotas.lock(SUBSCRIPTION)
