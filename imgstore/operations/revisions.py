"""Write the revisions of changed resources into the buckets (invariant B18).

Triggers of the catalog mark each changed resource. A command writes the revisions of its changes before the answer
(`flush_revisions`). The background pass writes the remaining ones (`write_waiting_revisions`): revisions for a region
that did not answer, deferred kinds, and the resources of an installation that existed before the first revision.

A resource without a slot has its revision in each region that the installation uses, or in the first region of
regions.yaml before any region is used. One region is enough for a command. The marks of other regions stay.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from imgstore.catalog import Transaction
from imgstore.catalog.storage.revision_marks import RevisionMark
from imgstore.domain.errors import CircuitOpen, Conflict, ImgstoreError, StoreError, StoreMismatch, StoreUnreachable
from imgstore.domain.resources import Slot
from imgstore.domain.storage.object_keys import INSTALLATION, installation_revision_key
from imgstore.domain.storage.revisions import (
    OWNER_KINDS,
    Revision,
    decode_revision,
    derive_revision_key,
    encode_revision,
    read_revision_mac,
)
from imgstore.operations.installation import Installation
from imgstore.stores.interface import ObjectStore
from imgstore.stores.wrappers.hedging import Grace, Outcome, ask_all, ask_to_quorum

_MARKS_AT_ONCE: Final = 1_000
"""Marks of one batch. A batch reads the rows of its resources in one transaction."""
_ROUNDS_MAX: Final = 3
"""Batches of a command. The first use of a region records the region's zones, which are resources, too."""
_MADE_BY_FLUSH: Final = frozenset({"zones"})
"""The kinds of resources that a flush itself makes."""
_PUTS_AT_ONCE: Final = 8
"""Threads for the objects of one region or slot."""
_LEDGER_ROWS_MAX: Final = 10_000
"""Rows in one checkpoint of the ledger, about 5 MB."""


class _NumberTakenError(StoreMismatch):
    """A bucket has another revision with a number that this catalog has just drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The place of revisions: a slot, or the installation's objects in a region."""

    region: str
    slot: Slot | None = None

    @property
    def place(self) -> Slot | str:
        """The place for `Locator.is_avoided`."""
        return self.region if self.slot is None else self.slot

    def open(self, installation: Installation) -> tuple[ObjectStore, str]:
        """Return the store and the prefix of the keys."""
        if self.slot is None:
            return installation.locator.installation_store(self.region), ""
        return installation.locator.store(self.slot), self.slot.prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A marked resource with its next revision."""

    revision: Revision
    marks: Sequence[int]
    """The numbers of the marks that the revision serves."""
    targets: Sequence[_Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The marks of a batch, by number."""

    urgent_only: bool
    after: int = 0
    """Leave out marks up to this number."""
    until: int | None = None
    """The highest number. None is no limit."""
    also_kinds: frozenset[str] = frozenset()
    """The kinds of marks without a highest number."""
    first_until: int | None = None
    """Write nothing if the first mark has a higher number. None is no limit."""


@dataclass(slots=True)
class _Written:
    """The results of one target."""

    done: set[str] = field(default_factory=set)
    """The object keys below the target."""
    error: ImgstoreError | None = None


def flush_revisions(installation: Installation) -> None:
    """Write the revisions of changes that a command has made, before the answer.

    A finished command does not fail if no store takes a revision. The marks stay, and the background pass repeats the
    write.
    """
    if installation.catalog.write_fault is not None:
        return
    catalog = installation.catalog.without_operation
    last_own: int | None = None
    for _ in range(_ROUNDS_MAX):
        try:
            with catalog.reading() as transaction:
                if not transaction.revision_marks.has_urgent(until=last_own, also_kinds=_MADE_BY_FLUSH):
                    return
                if last_own is None:
                    last_own = transaction.revision_marks.last_number()
                    # The marks of commands that wait for the lock belong to the first batch. If all marks are of later
                    # commands, another thread has written the marks of this command.
                    choice = _Choice(urgent_only=True, first_until=last_own)
                else:  # A command must not wait for the changes of later commands.
                    choice = _Choice(urgent_only=True, until=last_own, also_kinds=_MADE_BY_FLUSH)
            with installation.revision_lock:
                if not _write_batch(installation, choice):
                    return
        except StoreError as error:  # The catalog does not answer.
            installation.note("revisions", f"the revisions of the change are not written yet: {error.message}")
            return


def write_waiting_revisions(installation: Installation) -> int:
    """Write the revisions of all marks, as far as stores answer. May be killed at any time and repeated.

    Returns:
        The number of marks that remain, because a store does not answer or the catalog is outdated.
    """
    tried = 0
    with installation.catalog.reading() as transaction:
        last = transaction.revision_marks.last_number()
    while True:
        installation.keeper.check_cancelled()
        # Without the lock, because commands must not wait for a region that does not answer.
        tried = _write_batch(installation, _Choice(urgent_only=False, after=tried, until=last))
        if not tried:
            break
    with installation.catalog.reading() as transaction:
        return transaction.revision_marks.count()


def _write_batch(installation: Installation, choice: _Choice) -> int:
    """Write the revisions of the chosen marks. Return the number of the last mark, or 0 if there is none."""
    with installation.catalog.without_operation.transaction() as transaction:
        found = _draw(installation, transaction, choice)
        key = derive_revision_key(transaction.installation.hmac_key())
    if not found:
        return 0
    changes, last = found
    written = _put_all(installation, changes, key, is_patient=not choice.urgent_only)
    _record(installation, changes, written)
    return last


def _draw(installation: Installation, transaction: Transaction, choice: _Choice) -> tuple[list[_Change], int] | None:
    """Draw a number for each marked resource, and read the rows afterwards."""
    own = transaction.installation.get()
    if own.outdated is not None:
        return None  # Numbers of an outdated catalog are lower than numbers in the buckets.
    marks = transaction.revision_marks.list(
        urgent_only=choice.urgent_only,
        regions=[region.name for region in installation.regions.regions.values()],
        after=choice.after,
        until=choice.until,
        also_kinds=choice.also_kinds,
        limit=_MARKS_AT_ONCE,
    )
    if not marks or (choice.first_until is not None and marks[0].number > choice.first_until):
        return None
    grouped: defaultdict[str, defaultdict[str, list[RevisionMark]]] = defaultdict(lambda: defaultdict(list))
    for mark in marks:
        grouped[mark.kind][mark.uid].append(mark)
    changes: list[_Change] = []
    used: list[str] | None = None
    for kind, by_uid in grouped.items():
        numbers = {
            uid: transaction.revision_marks.add(kind, uid, is_urgent=any(mark.is_urgent for mark in own_marks))
            for uid, own_marks in by_uid.items()
        }
        rows = transaction.revision_marks.read(kind, by_uid)
        slots = transaction.revision_marks.find_slots(kind, rows) if kind in OWNER_KINDS else {}
        for uid, own_marks in by_uid.items():
            revision = Revision(
                kind=kind,
                uid=uid,
                number=numbers[uid],
                installation_uid=own.uid,
                is_deleted=uid not in rows,
                rows=rows.get(uid, {}),
            )
            regions = {mark.region for mark in own_marks}
            if kind not in OWNER_KINDS or revision.is_deleted:
                if used is None:
                    used = list_used_regions(installation, transaction)
                wanted = used if None in regions else sorted(region for region in regions if region is not None)
                targets = [_Target(region=region) for region in wanted]
            else:  # A version without a replica is about to be deleted.
                slot = transaction.slots.get(slots[uid]) if uid in slots else None
                targets = [] if slot is None else [_Target(region=slot.key.region, slot=slot)]
            served = [mark.number for mark in own_marks]
            changes.append(_Change(revision=revision, marks=served, targets=targets))
    return changes, marks[-1].number


def list_used_regions(installation: Installation, transaction: Transaction) -> list[str]:
    """Return the regions with a recorded zone, or the first region of regions.yaml if there is none."""
    recorded = {zone.region for zone in transaction.zones.list()}
    names = [region.name for region in installation.regions.regions.values()]
    return [name for name in names if name in recorded] or names[:1]


def _put_all(
    installation: Installation, changes: Sequence[_Change], key: bytes, *, is_patient: bool
) -> Mapping[_Target, _Written]:
    """Put the revisions into all targets at once.

    Unless `is_patient`, a store that is late counts as failed. The command has made its change, and must not wait.
    """
    bodies: defaultdict[_Target, dict[str, bytes]] = defaultdict(dict)
    for change in changes:
        body = encode_revision(change.revision, key)
        for target in change.targets:
            bodies[target][change.revision.object_key] = body
    targets = list(bodies)
    written = {target: _Written() for target in targets}
    asks = [partial(_put_into, installation, target, bodies[target], written[target]) for target in targets]
    if not asks:
        return written
    if not is_patient:
        installation.locator.health.refresh()  # Other processes of the host may know silent regions.
    began = installation.effects.monotonic()
    outcomes = ask_all(asks) if is_patient else _ask_with_grace(installation, targets, asks)
    for target, outcome in zip(targets, outcomes, strict=True):
        if outcome.late:
            age_seconds = outcome.age_seconds or installation.effects.monotonic() - began
            installation.locator.note_late_write(target.place, age_seconds)
            # The thread still adds keys to the former value.
            written[target] = _Written(
                error=StoreUnreachable(f"Region {target.region} is late.", found="no answer", target=target.region)
            )
        elif outcome.error is not None:
            written[target].error = outcome.error
    return written


def _ask_with_grace(
    installation: Installation, targets: Sequence[_Target], asks: Sequence[Callable[[], None]]
) -> list[Outcome[None]]:
    """Ask all targets at once, and give up each one that neither answers nor moves a body within its grace."""
    grace = Grace()

    def seconds(place: int, _quorum_seconds: float, _moved: bool) -> float:  # noqa: FBT001 - as it is called
        return grace.seconds(last_seconds=0.0, known_late=installation.locator.is_avoided(targets[place].place))

    return ask_to_quorum(
        asks, quorum=0, grace=seconds, ended_late=lambda _outcome: None, monotonic=installation.effects.monotonic
    )


def _put_into(installation: Installation, target: _Target, bodies: Mapping[str, bytes], written: _Written) -> None:
    """Put revisions into a target.

    Raises:
        StoreError: an object was not put. `written` has the keys of the others.
    """
    try:
        store, prefix = target.open(installation)
    except StoreError:
        raise
    except ImgstoreError as error:  # regions.yaml does not contain the region any more.
        raise StoreMismatch(error.message, found=error.found, hint=error.hint, target=target.region) from error

    def put(key: str) -> None:
        _put_new(store, prefix + key, bodies[key])
        written.done.add(key)

    errors: list[StoreError] = []
    keys = sorted(bodies)
    for at in range(0, len(keys), _PUTS_AT_ONCE):
        # The threads may be given up: a region that does not answer must not delay the end of the process.
        outcomes = ask_all([partial(put, key) for key in keys[at : at + _PUTS_AT_ONCE]])
        errors += [outcome.error for outcome in outcomes if outcome.error is not None]
        if any(error.retryable for error in errors):
            break  # Each further request to a silent store would wait for the time limit.
    if errors:
        raise next((each for each in errors if isinstance(each, _NumberTakenError)), errors[0])


def _put_new(store: ObjectStore, key: str, body: bytes) -> None:
    """Put an object that does not exist.

    Raises:
        _NumberTakenError: the object exists with other bytes, so another catalog has used the number.
        StoreError: the store does not take the object.
    """
    try:
        store.put(key, body, only_if_absent=True)
    except Conflict:
        if store.get(key) == body:
            return
        raise _NumberTakenError(
            f"{store.name} has another revision with the number of {key}.",
            found=f"the object {key} of another catalog",
            expected="a number that no catalog has used",
            hint="restore the newest backup of the catalog",
            target=key,
        ) from None
    except CircuitOpen:
        raise
    except StoreUnreachable:
        store.put(key, body)  # With the usual retries. The first request may have stored the object.


def _record(installation: Installation, changes: Sequence[_Change], written: Mapping[_Target, _Written]) -> None:
    """Remove the marks of written revisions, and leave the others to the background pass."""
    errors = [each.error for each in written.values() if each.error is not None]
    taken = next((error for error in errors if isinstance(error, _NumberTakenError)), None)
    removed: list[int] = []
    deferred: list[int] = []
    with installation.catalog.without_operation.transaction() as transaction:
        for change in changes:
            missed = [each for each in change.targets if change.revision.object_key not in written[each].done]
            removed.append(change.revision.number)
            if missed and len(missed) == len(change.targets):
                deferred += change.marks
                continue
            removed += change.marks
            for target in missed:
                transaction.revision_marks.add(change.revision.kind, change.revision.uid, region=target.region)
        transaction.revision_marks.remove(removed)
        is_begun = bool(transaction.zones.list())
        if is_begun:  # Otherwise `regions init` writes the revisions after it has prepared the first region.
            transaction.revision_marks.defer(deferred)
        if taken is not None:
            transaction.installation.mark_outdated(taken.found or taken.message)
    if is_begun and deferred and errors:
        installation.note("revisions", f"no store has taken the newest revision of a resource: {errors[0].message}")


def write_ledger_checkpoints(installation: Installation) -> int:
    """Write the rows of the ledger that are new or changed since the last checkpoint. May be killed and repeated.

    A checkpoint names the HMAC of the previous one. So a missing checkpoint is noticed.

    Returns:
        The number of rows in the new checkpoints.

    Raises:
        StoreError: no region has taken a checkpoint.
    """
    rows = 0
    catalog = installation.catalog.without_operation
    while True:
        installation.keeper.check_cancelled()
        with catalog.transaction() as transaction:
            own = transaction.installation.get()
            marks = transaction.revision_marks.list_for_ledger(_LEDGER_ROWS_MAX)
            if not marks or own.outdated is not None:
                return rows
            revision = Revision(
                kind="ledger",
                uid=own.uid,
                number=transaction.revision_marks.add("ledger", own.uid),
                installation_uid=own.uid,
                rows=transaction.revision_marks.read_ledger_rows(marks),
                previous=transaction.revision_marks.last_checkpoint_mac(),
            )
            key = derive_revision_key(transaction.installation.hmac_key())
            targets = [_Target(region=name) for name in list_used_regions(installation, transaction)]
        change = _Change(revision=revision, marks=[mark.number for mark in marks], targets=targets)
        written = _put_all(installation, [change], key, is_patient=True)
        if not any(each.done for each in written.values()):
            raise next(each.error for each in written.values() if each.error is not None)
        mac = read_revision_mac(encode_revision(revision, key), revision.object_key)
        with catalog.transaction() as transaction:
            if transaction.revision_marks.last_checkpoint_mac() != revision.previous:
                return rows  # Another process has written a checkpoint at the same time. The marks stay.
            transaction.revision_marks.add_checkpoint(revision.number, mac)
            transaction.revision_marks.remove([*change.marks, revision.number])
        rows += sum(map(len, revision.rows.values()))


def copy_ledger_checkpoints(installation: Installation) -> int:
    """Copy each checkpoint of the ledger that a region misses from another region. Regions without an answer are skipped.

    Returns:
        The number of copied objects.
    """
    with installation.catalog.reading() as transaction:
        own = transaction.installation.get()
        expected = {
            installation_revision_key("ledger", own.uid, number): mac
            for number, mac in transaction.revision_marks.list_checkpoints().items()
        }
        key = derive_revision_key(transaction.installation.hmac_key())
        regions = list_used_regions(installation, transaction)
    if not expected or own.outdated is not None:
        return 0
    listed: dict[str, tuple[ObjectStore, frozenset[str]]] = {}
    for name in regions:
        try:
            store = installation.locator.installation_store(name)
            keys = frozenset(info.key for info in store.list(f"{INSTALLATION}ledger/") if info.certain)
        except StoreError:
            continue
        listed[name] = store, keys
    copied = 0
    for store, keys in listed.values():
        for missing in sorted(expected.keys() - keys):
            installation.keeper.check_cancelled()
            for other, other_keys in listed.values():
                if missing not in other_keys:
                    continue
                try:
                    body = other.get(missing)
                    decode_revision(body, key, object_key=missing, installation_uid=own.uid)
                    store.put(missing, body)
                except StoreError:
                    continue
                copied += 1
                break
    return copied
