"""Keep the revisions in the buckets complete and few: compare them with the catalog, repair zones, delete old revisions.

A revision is written once, under a number that no other object ever has. So a late delete cannot remove a newer object,
and no delete is recorded before it is sent.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from imgstore.catalog import Transaction
from imgstore.catalog.storage.revisions import KINDS, select_loud_rows
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ObjectNotFound, StoreError, StoreMismatch
from imgstore.domain.resources import Slot
from imgstore.domain.storage.object_keys import (
    INSTALLATION,
    LEDGER_CHECKPOINTS,
    OWNERS,
    parse_installation_revision,
    parse_owner_revision,
    uid_part,
)
from imgstore.domain.storage.revisions import OWNER_KINDS, JsonRow, decode_revision, derive_revision_key
from imgstore.operations.installation import Installation
from imgstore.operations.revisions import (
    copy_ledger_checkpoints,
    list_used_regions,
    write_ledger_checkpoints,
    write_waiting_revisions,
)
from imgstore.stores.interface import Accept, ObjectInfo, ObjectStore
from imgstore.stores.zone_redundant import QUORUM, ZoneRedundantStore

DELETION_DAYS: Final = 30
"""The time for which the revision of a deletion is kept at least."""
_LEDGER: Final = "ledger"


@dataclass(slots=True)
class RevisionCheck:
    """The result of a comparison of revisions with the catalog."""

    read: int = 0
    """Revisions that were read."""
    wrong: int = 0
    """Resources whose newest revision is missing, damaged or different."""
    problem: str | None = None
    """Why a slot or region was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A slot or a region, with the resources that must have a revision there."""

    name: str
    region: str | None
    """The region of a mark for a missing revision. None for a slot."""
    store: Callable[[], ObjectStore]
    prefix: str
    folder: str
    expected: Mapping[str, Collection[str]]
    """The uids by kind."""


def write_all_revisions(installation: Installation) -> None:
    """Write the remaining revisions and checkpoints of the ledger, as far as stores answer."""
    write_waiting_revisions(installation)
    try:
        write_ledger_checkpoints(installation)
    except StoreError as error:
        installation.note("revisions", f"the ledger has no new checkpoint: {error.message}")
    copy_ledger_checkpoints(installation)


def stale_slot_revisions(transaction: Transaction, slot: Slot, listed: Mapping[str, ObjectInfo]) -> Mapping[str, int]:
    """Return the stored bytes of the revisions of a slot that no rebuild needs, by key below the slot.

    The newest revision stays while the version or stored disk has its revisions in this slot, or while a newer revision
    is not written yet. The catalog is read after the listing.

    Args:
        transaction: a transaction that began after the listing.
        slot: the slot.
        listed: the objects below `owners/`, by key below the slot.
    """
    by_uid: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for key in listed:
        if (parsed := parse_owner_revision(key)) is not None:
            by_uid[parsed[0]].append((parsed[1], key))
    here: set[str] = set()
    for kind in OWNER_KINDS:
        slots = transaction.revision_marks.find_slots(kind, by_uid)
        here |= {uid for uid, slot_uid in slots.items() if slot_uid == slot.uid}
        here |= transaction.revision_marks.list_marked(kind, by_uid)
    stale = [key for uid, found in by_uid.items() for _, key in sorted(found)[: -1 if uid in here else None]]
    return {key: listed[key].stored_bytes for key in stale}


def delete_old_revisions(installation: Installation, owners_in_slots: Collection[str] | None) -> int:
    """Delete the revisions of the installation that no rebuild needs, in each region.

    The newest revision of each resource stays. The revision of a deletion stays for `DELETION_DAYS`, and as long as an
    older revision of the resource may exist. The checkpoints of the ledger stay.

    Args:
        installation: the installation.
        owners_in_slots: the uids with revisions in slots. None if a slot was not read.

    Returns:
        The number of deleted objects.
    """
    with installation.catalog.reading() as transaction:
        regions = list_used_regions(installation, transaction)
        mac_key = derive_revision_key(transaction.installation.hmac_key())
    listings: dict[str, _RegionListing] = {}
    for region in regions:
        try:
            listings[region] = _list_region(installation.locator.installation_store(region))
        except StoreError as error:
            installation.note("revisions", f"old revisions in {region} stay: {error.message}")
    deleted = 0
    for listing in listings.values():
        old = [key for found in listing.by_uid.values() for _, key in sorted(found)[:-1]]
        deleted += _delete(listing.store, old)
    if owners_in_slots is None or len(listings) < len(regions):
        return deleted
    over = _find_old_deletions(installation, listings, owners_in_slots)
    for _, region, key in sorted(over):  # A killed collection leaves the newest revisions, which are deletions.
        if _is_deletion(installation, listings[region].store, key, mac_key):
            deleted += _delete(listings[region].store, [key])
    return deleted


def _is_deletion(installation: Installation, store: ObjectStore, key: str, mac_key: bytes) -> bool:
    """Return whether an object is certainly the revision of a deletion. The catalog may be older than the bucket."""
    try:
        body = store.get(key)
        return decode_revision(body, mac_key, object_key=key, installation_uid=installation.uid).is_deleted
    except StoreError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _RegionListing:
    """The revisions of the installation in a region, without the ledger."""

    store: ObjectStore
    by_uid: Mapping[tuple[str, str], Sequence[tuple[int, str]]]
    """The numbers and keys by kind and part of the uid."""
    written_at: Mapping[str, datetime]
    """The time of each object by the clock of the store."""


def _list_region(store: ObjectStore) -> _RegionListing:
    by_uid: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    written_at: dict[str, datetime] = {}
    for info in store.list(INSTALLATION):
        written_at[info.key] = info.last_modified
        parsed = parse_installation_revision(info.key)
        if parsed is not None and parsed[0] != _LEDGER and info.certain:
            by_uid[parsed[0], parsed[1]].append((parsed[2], info.key))
    return _RegionListing(store=store, by_uid=by_uid, written_at=written_at)


def _delete(store: ObjectStore, keys: Collection[str]) -> int:
    try:
        store.delete(keys)
    except StoreError:
        return 0  # The next collection deletes the objects.
    return len(keys)


def _find_old_deletions(
    installation: Installation, listings: Mapping[str, _RegionListing], owners_in_slots: Collection[str]
) -> list[tuple[int, str, str]]:
    """Return (number, region, key) of deletions that are old in each region and have no older revision anywhere."""
    newest: defaultdict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    recent: set[tuple[str, str]] = set()
    for region, listing in listings.items():
        # The newest object of the region shows a time by the clock of the store.
        latest = max(listing.written_at.values(), default=None)
        for name, found in listing.by_uid.items():
            number, key = max(found)
            newest[name].append((number, region, key))
            if latest is None or latest - listing.written_at[key] < timedelta(days=DELETION_DAYS):
                recent.add(name)
    with installation.catalog.reading() as transaction:
        present = {(kind, uid_part(uid)) for kind in KINDS for uid in transaction.revision_marks.list_uids(kind)} | {
            (kind, uid_part(uid)) for kind, uid in transaction.revision_marks.list_resources()
        }
    return [
        each
        for name, found in newest.items()
        if name not in present and name not in recent and name[0] in KINDS and name[1] not in owners_in_slots
        for each in found
    ]


def repair_installation_zones(installation: Installation) -> int:
    """Give each zone the revisions of the installation that the zone missed, as far as the zones answer.

    Returns:
        The number of objects that were copied.
    """
    with installation.catalog.reading() as transaction:
        regions = list_used_regions(installation, transaction)
    copied = 0
    for region in regions:
        try:
            store = installation.locator.installation_store(region)
            if isinstance(store, ZoneRedundantStore):
                noted = sorted({note.key for note in store.list_pending_repairs()})
                copied += sum(
                    _settle(store, key) for key in noted if key.startswith((INSTALLATION, LEDGER_CHECKPOINTS))
                )
        except StoreError:
            continue  # The next run repeats the repair.
    return copied


def _settle(store: ZoneRedundantStore, key: str, accept: Accept | None = None) -> int:
    """Make the zones equal about a key that is written once. Return the number of copied objects.

    Without `accept`, the bytes of most zones are right.
    """
    copies = store.read_copies(key, accept)
    defective = [*copies.wrong, *copies.absent]
    if copies.silent:
        return 0
    if copies.body is not None and defective:
        if len(copies.absent) < QUORUM:
            if store.restore(key, copies):
                return 0  # A zone did not take the object. The next run repeats the repair.
        else:
            store.delete_in(key, copies.right)  # An object in a single zone does not exist.
    if store.has_notes(key):
        store.delete_notes(key)
    return len(defective) if copies.body is not None else 0


def check_revisions(
    installation: Installation,
    slots: Iterable[Slot],
    regions: Iterable[str],
    *,
    dry_run: bool,
) -> RevisionCheck:
    """Read the newest revision of each resource, compare the revision with the catalog, and write wrong ones again.

    Args:
        installation: the installation.
        slots: the slots with revisions to read.
        regions: the regions with revisions of the installation to read. Unused regions are left out.
        dry_run: write nothing.
    """
    check = RevisionCheck()
    with installation.catalog.reading() as transaction:
        if transaction.installation.get().outdated is not None:
            return check
        places = _places(installation, transaction, list(slots), set(regions))
    for place in places:
        try:
            _check_place(installation, place, check, dry_run=dry_run)
        except ImgstoreError as error:
            check.problem = f"{place.name}: {error.message}"
    if check.wrong and not dry_run:
        write_waiting_revisions(installation)
    return check


def _places(
    installation: Installation, transaction: Transaction, slots: Sequence[Slot], regions: Collection[str]
) -> list[_Place]:
    marks = transaction.revision_marks
    in_slots: defaultdict[str, dict[str, list[str]]] = defaultdict(lambda: {kind: [] for kind in OWNER_KINDS})
    for kind in OWNER_KINDS if slots else ():
        for uid, slot_uid in marks.find_slots(kind, marks.list_uids(kind)).items():
            in_slots[slot_uid][kind].append(uid)
    places = [
        _Place(
            name=str(slot.key),
            region=None,
            store=partial(installation.locator.store, slot),
            prefix=slot.prefix,
            folder=OWNERS,
            expected=in_slots[slot.uid],
        )
        for slot in slots
    ]
    used = [name for name in list_used_regions(installation, transaction) if name in regions]
    kinds = [kind.name for kind in KINDS.values() if not kind.is_ledger and kind.name not in OWNER_KINDS]
    everywhere = {kind: marks.list_uids(kind) for kind in kinds} if used else {}
    places += [
        _Place(
            name=f"the revisions in {name}",
            region=name,
            store=partial(installation.locator.installation_store, name),
            prefix="",
            folder=INSTALLATION,
            expected=everywhere,
        )
        for name in used
    ]
    return places


def _check_place(installation: Installation, place: _Place, check: RevisionCheck, *, dry_run: bool) -> None:
    store = place.store()
    newest: dict[tuple[str, str], tuple[int, str]] = {}
    for info in store.list(place.prefix + place.folder):
        key = info.key.removeprefix(place.prefix)
        # A damaged note does not name its key, so each listed key is compared with the notes.
        if not dry_run and isinstance(store, ZoneRedundantStore) and store.has_notes(info.key):
            _settle(store, info.key)
        if (parsed := _parse(place, key)) is not None:
            name, number = parsed
            newest[name] = max(newest.get(name, (0, "")), (number, key))
    for kind, uids in place.expected.items():
        with installation.catalog.reading() as transaction:
            rows = transaction.revision_marks.read(kind, uids)
            marked = transaction.revision_marks.list_marked(kind, uids)
            own, mac_key = transaction.installation.get(), derive_revision_key(transaction.installation.hmac_key())
        wrong: list[str] = []
        for uid in sorted(rows.keys() - marked):
            installation.keeper.check_cancelled()
            found = newest.get(_name(place, kind, uid))
            accept = _Accept(object_key=found[1] if found else "", key=mac_key, installation_uid=own.uid)
            body = None if found is None else _read(store, place.prefix + found[1], accept, dry_run=dry_run)
            check.read += body is not None
            if body is None or select_loud_rows(kind, accept.decode(body)) != select_loud_rows(kind, rows[uid]):
                wrong.append(uid)
        check.wrong += len(wrong)
        if wrong and not dry_run:
            with installation.catalog.transaction() as transaction:
                for uid in wrong:
                    transaction.revision_marks.add(kind, uid, region=place.region)


def _parse(place: _Place, key: str) -> tuple[tuple[str, str], int] | None:
    if place.region is None:
        owner = parse_owner_revision(key)
        return None if owner is None else (("", owner[0]), owner[1])
    parsed = parse_installation_revision(key)
    return None if parsed is None else ((parsed[0], parsed[1]), parsed[2])


def _name(place: _Place, kind: str, uid: str) -> tuple[str, str]:
    return ("" if place.region is None else kind, uid_part(uid))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accept:
    """Accepts the body of a revision."""

    object_key: str
    key: bytes
    installation_uid: str

    def __call__(self, body: bytes) -> bool:
        try:
            self.decode(body)
        except (ObjectCorrupt, StoreMismatch):
            return False
        return True

    def decode(self, body: bytes) -> Mapping[str, Sequence[JsonRow]]:
        """Return the rows. Raises the errors of `decode_revision`."""
        return decode_revision(body, self.key, object_key=self.object_key, installation_uid=self.installation_uid).rows


def _read(store: ObjectStore, key: str, accept: _Accept, *, dry_run: bool) -> bytes | None:
    """Return the body of a revision, or None if the object is missing or damaged. Three zones become equal."""
    try:
        if isinstance(store, ZoneRedundantStore) and not dry_run:
            _settle(store, key, accept)
        return store.get(key, accept)
    except (ObjectNotFound, ObjectCorrupt):
        return None
