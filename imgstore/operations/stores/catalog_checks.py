"""Is the catalog as new as its buckets? Nothing is destroyed by what an outdated catalog says (invariant G15).

Each work that writes leaves a checkpoint in its zone, which the catalog recorded before (`domain/storage/checkpoints.py`). A
zone with a checkpoint that the catalog never recorded has seen a later catalog, or another one: this one was restored
from a backup, or a copy of it is in use. The catalog remembers the first such finding until an operator accepts it.
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


def check_catalog_is_current(installation: Installation, slots: Iterable[Slot] | None = None) -> None:
    """Compare the catalog with the checkpoints in its zones. Call this before anything is destroyed.

    One LIST a zone. A zone that does not answer is passed over: nothing can be deleted in it either.

    Args:
        installation: the installation.
        slots: the slots whose zones are looked at; None means every zone that was ever used. The slot of a disk is
            enough for the disk: what a later catalog made of it is there. A version may have lost its other replicas
            by a later catalog, which other zones show.

    Raises:
        CatalogOutdated: the catalog is older than its buckets, or not theirs.
    """
    installation.locator.refresh_checkpoints(slots)
    with installation.catalog.reading() as transaction:
        refuse_if_outdated(transaction)


def refuse_if_outdated(transaction: Transaction) -> None:
    """Refuse what would destroy, by what the catalog remembers. For transactions: asks no store.

    Raises:
        CatalogOutdated: it was found to be outdated.
    """
    found = transaction.installation.get().outdated
    if found is not None:
        raise CatalogOutdated(
            "The catalog is older than its buckets, so nothing is deleted.",
            found=found,
            expected="a catalog that recorded every checkpoint of its buckets",
            hint="restore the newest backup of the catalog. If there is none, `imgstore regions accept-catalog` says what "
            "is lost by using this one",
            target="catalog",
        )


def check_unknown_removable(installation: Installation) -> None:
    """Refuse to remove objects that the catalog does not know, where they may be those of a later catalog.

    Raises:
        CatalogOutdated: the catalog is older than its buckets, or an operator accepted it as that.
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
    """Compare the catalog with all its zones in the background, as a server or worker does at its start.

    What is found is noted and remembered; nothing is raised.
    """

    def look() -> None:
        try:
            check_catalog_is_current(installation)
        except CatalogOutdated as error:
            installation.note("catalog", str(error))
        except ImgstoreError:
            return  # The database does not answer: whoever asks it next hears so.

    start_thread(look)


def accept_catalog(installation: Installation, principal: Principal) -> list[str]:
    """Accept a catalog that is older than its buckets. May be repeated.

    Objects that the catalog does not know are listed from now on, and never deleted.

    Returns:
        What went wrong, a line for each zone that did not answer: it may show again that the catalog is older.
    """
    with record_activity(installation, principal, Action.ADMINISTER, "/", "imgstore/regions/acceptCatalog"):
        problems = installation.locator.delete_unknown_checkpoints()
        with installation.catalog.transaction() as transaction:
            transaction.installation.accept_outdated()
        return problems


def find_referenced_bodies(installation: Installation, slot: Slot) -> frozenset[str]:
    """The manifests of a slot, by key, to which references refer that the catalog does not know.

    Empty unless an operator accepted an older catalog: then a disk that was made after the backup may be such a stranger,
    and the body of its reference must outlive the version that it was made from.

    Raises:
        StoreError: the slot cannot be read: then nobody can tell.
    """
    with installation.catalog.reading() as transaction:
        if not transaction.installation.get().keeps_unknown:
            return frozenset()
        rows = transaction.manifests.in_slot(slot.uid, complete_only=False)
    from imgstore.segments.reference import MAGIC, decode_reference  # noqa: PLC0415 - numpy, which short commands spare

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
