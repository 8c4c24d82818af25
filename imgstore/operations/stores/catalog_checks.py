"""Check that the catalog is not older than its buckets. An outdated catalog destroys nothing (invariant G15).

Each writing work leaves a checkpoint in the zone, and the catalog records the checkpoint before
(`domain/storage/checkpoints.py`). A zone with an unknown checkpoint was used with a later catalog or with another
catalog. So the present catalog was restored from a backup, or is a copy. The catalog keeps the first such finding until
an operator accepts the catalog.
"""

from collections.abc import Iterable

from imgstore.catalog import Transaction
from imgstore.domain.errors import CatalogOutdated, ImgstoreError, ObjectNotFound
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.resources import Slot
from imgstore.domain.storage import object_keys
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.stores.threads import start_thread


def check_catalog_is_current(
    installation: Installation, slots: Iterable[Slot] | None = None, *, also_unrecorded: bool = False
) -> None:
    """Compare the catalog with the checkpoints in the zones. Call this before any deletion.

    Each zone needs one LIST. A zone that does not answer is skipped, because nothing can be deleted there either.

    Args:
        installation: the installation.
        slots: the slots in the zones to compare. None means all zones that were ever used. For a disk, the slot of the
            disk is enough, because changes of a later catalog to the disk are there. A later catalog may have removed
            other replicas of a version, so a version needs all zones.
        also_unrecorded: also compare zones that only a later catalog may have used. A deletion needs no such zone, because
            this catalog deletes nothing there.

    Raises:
        CatalogOutdated: the catalog is older than its buckets, or belongs to other buckets.
    """
    installation.locator.refresh_checkpoints(slots, also_unrecorded=also_unrecorded)
    with installation.catalog.reading() as transaction:
        refuse_if_outdated(transaction)


def refuse_if_outdated(transaction: Transaction) -> None:
    """Refuse a deletion if the catalog is recorded as outdated. For use in transactions: no store request is sent.

    Raises:
        CatalogOutdated: the catalog is recorded as outdated.
    """
    found = transaction.installation.get().outdated
    if found is not None:
        raise CatalogOutdated(
            "The catalog is older than its buckets, so nothing is deleted.",
            found=found,
            expected="a catalog that recorded every checkpoint of its buckets",
            hint="restore the newest backup of the catalog (`imgstore catalog restore`). If there is none, `imgstore catalog "
            "adopt` lists the newer resources in the buckets and takes them, and `imgstore regions accept-catalog` says what "
            "is lost without them",
            target="catalog",
        )


def check_unknown_removable(installation: Installation) -> None:
    """Refuse to remove objects that the catalog does not know if a later catalog may know the objects.

    Raises:
        CatalogOutdated: the catalog is older than its buckets, or an operator accepted the catalog as such.
    """
    check_catalog_is_current(installation)
    with installation.catalog.reading() as transaction:
        if transaction.installation.get().keeps_unknown:
            raise CatalogOutdated(
                "Objects that the catalog does not know are never removed here.",
                found="a catalog that was older than its buckets when an operator accepted it",
                expected="a catalog that knew all objects from the first day",
                hint="the objects may be versions and disks of the lost time; `imgstore gc --unknown` lists them",
                target="catalog",
            )


def check_catalog_in_background(installation: Installation) -> None:
    """Compare the catalog with all zones in the background, at the start of a server or worker.

    A finding is noted and recorded. No error is raised.
    """

    def look() -> None:
        try:
            check_catalog_is_current(installation, also_unrecorded=True)
        except CatalogOutdated as error:
            installation.note("catalog", str(error))
        except ImgstoreError:
            return  # The next operation reports a database that does not answer.

    start_thread(look)


def accept_catalog(installation: Installation, principal: Principal) -> list[str]:
    """Accept a catalog that is older than its buckets. May be repeated.

    Afterwards, objects that the catalog does not know are listed, and are never deleted.

    Returns:
        One text for each zone that did not answer. Such a zone may later show again that the catalog is older.
    """
    with record_activity(installation, principal, Action.ADMINISTER, "/", "imgstore/regions/acceptCatalog"):
        problems = installation.locator.delete_unknown_checkpoints()
        with installation.catalog.transaction() as transaction:
            transaction.installation.accept_outdated()
        return problems


def find_referenced_bodies(installation: Installation, slot: Slot) -> frozenset[str]:
    """Return the keys of manifests in a slot that unknown references name.

    The result is empty unless an operator accepted an older catalog. Then a disk that was made after the backup is
    unknown, and the manifest of its reference must outlive the source version.

    Raises:
        StoreError: the slot cannot be read, so the references are not known.
    """
    with installation.catalog.reading() as transaction:
        if not transaction.installation.get().keeps_unknown:
            return frozenset()
        rows = transaction.manifests.in_slot(slot.uid, complete_only=False)
    from imgstore.segments.reference import MAGIC, decode_reference  # noqa: PLC0415 - short commands do not load numpy

    known = {row.body_key for row in rows} | {object_keys.manifest_key(row.owner_uid, row.disk) for row in rows}
    access = installation.access(slot)
    bodies = set()
    for info in access.store.list(access.prefix + object_keys.MANIFESTS):
        key = info.key.removeprefix(access.prefix)
        if key in known:
            continue
        try:
            data = access.get_object(key, lambda _body: True)
        except ObjectNotFound:
            continue
        if data.startswith(MAGIC):
            bodies.add(decode_reference(data).body_key)
    return frozenset(bodies)
