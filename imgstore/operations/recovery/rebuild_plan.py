"""Read all resources of an installation from its buckets: the plan of a rebuild. Nothing is written."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from imgstore.catalog.storage.rebuilt_rows import RowChecker, Rows
from imgstore.catalog.storage.revisions import KINDS
from imgstore.domain.errors import Conflict, InvalidInput, StoreMismatch
from imgstore.domain.progress import Subscriber
from imgstore.domain.recovery import RefusedResource
from imgstore.domain.resources import Slot, SlotKey
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.object_keys import INSTALLATION, MANIFESTS, OWNERS, uid_part
from imgstore.domain.storage.revisions import OWNER_KINDS, Revision, read_revision_mac
from imgstore.operations.recovery.bucket_reader import BucketReader
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.policy.revision_choice import (
    OWNER,
    ResourceName,
    RevisionChoice,
    RevisionCopy,
    choose_revisions,
    name_revision,
)
from imgstore.regions import FoundZone

LEDGER: Final = "ledger"
_AFTER_SLOTS: Final = ("versions", "placements", "disks", LEDGER)
"""The kinds that are read or inserted after the slots are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundResource:
    """A resource as its newest valid revision describes the resource."""

    revision: Revision
    rows: Rows

    @property
    def uid(self) -> str:
        """The uid of the resource."""
        return self.revision.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLedger:
    """The checkpoints of the ledger, in order."""

    checkpoints: Sequence[tuple[int, str]] = ()
    """The number and the HMAC of each checkpoint, the lowest number first."""
    rows: Sequence[Rows] = ()
    breaks: Sequence[int] = ()
    newest_at: datetime | None = None
    """The time of the newest checkpoint by the clock of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildPlan:
    """The content of the buckets, as far as it is valid."""

    reader: BucketReader
    resources: Mapping[str, Sequence[FoundResource]]
    """By kind, in the order of `KINDS`, with versions and stored disks."""
    slots: Mapping[str, Slot]
    """By uid."""
    objects: Mapping[str, frozenset[str]]
    """By uid of a slot, the keys of manifests below the slot."""
    deleted: Sequence[Revision]
    """The newest revisions of deleted resources."""
    refused: Sequence[RefusedResource]
    ledger: FoundLedger
    checkpoints: Sequence[Checkpoint]
    newest_at: Mapping[int, datetime]
    """The time of each revision object by number, by the clock of the store."""
    last_number: int
    """The highest revision number in any bucket, also of refused objects."""
    absent: Sequence[tuple[str, str, str]]
    """(kind, uid, region) of each resource whose newest revision is missing in a region."""


def select_zones(
    zones: Iterable[FoundZone], keys: RecoveryKeys, skipped: Collection[str]
) -> tuple[list[FoundZone], list[str]]:
    """Return the zones of the installation, and the names of skipped zones.

    Args:
        zones: all zones of regions.yaml.
        keys: the keys of the installation.
        skipped: names of zones ("eastus/1") whose content the operator gives up.

    Raises:
        Conflict: a zone cannot be read, or belongs to another installation, and is not in `skipped`.
        InvalidInput: regions.yaml has no zone of a skipped name.
    """
    every = list(zones)
    names = [f"{each.region}/{each.zone}" for each in every]
    unknown = sorted(set(skipped) - set(names))
    if unknown:
        raise InvalidInput(
            f"The zone '{unknown[0]}' is not known.",
            found=repr(unknown[0]),
            expected=f"one of {', '.join(names)}",
            hint="name a zone of regions.yaml with its region, for example eastus/1",
            target="skipZone",
        )
    usable: list[FoundZone] = []
    problems: list[str] = []
    left_out: list[str] = []
    is_foreign = False
    for name, each in zip(names, every, strict=True):
        mark = each.mark
        if name in skipped:
            left_out.append(name)
        elif each.error is not None:
            problems.append(f"{name}: {each.error.message}")
        elif mark is not None and mark.installation != keys.installation_uid:
            problems.append(f"{name}: the zone belongs to installation {mark.installation}")
            is_foreign = True
        elif mark is not None and (mark.region, mark.zone) != (each.region, each.zone):
            problems.append(f"{name}: the zone is {mark.region}/{mark.zone}")
        elif mark is not None:
            usable.append(each)
    if problems:
        raise _zones_error(problems, is_foreign=is_foreign)
    if not usable:
        raise Conflict(
            "No zone of regions.yaml has content of the installation.",
            found="no zone with a FORMAT object",
            expected=f"the buckets or folders of installation {keys.installation_uid}",
            hint="name the home with the folders of the zones (--home), or regions.yaml with the buckets (--regions)",
            target="regions",
        )
    return usable, left_out


def read_plan(
    zones: Sequence[FoundZone],
    keys: RecoveryKeys,
    skipped: Collection[str],
    subscriber: Subscriber,
    local: Iterable[Revision] = (),
    *,
    regions: Collection[str] | None = None,
) -> RebuildPlan:
    """Read the newest valid revision of each resource.

    Args:
        zones: the zones of the installation.
        keys: the keys of the installation.
        skipped: names of lost zones.
        subscriber: gets the progress.
        local: the resources of a present catalog, with the number 0. A resource without a revision in the buckets counts
            as it is in the catalog.
        regions: the regions whose recorded zones must be in `zones`. None means all regions.

    Raises:
        Conflict: a recorded zone was not found, and is not in `skipped`.
        StoreError: a zone does not answer.
    """
    reader = BucketReader(zones=zones, keys=keys, subscriber=subscriber)
    top = reader.list_all((index, INSTALLATION) for index in range(len(zones)))
    top_copies = [
        RevisionCopy(zone=zone, prefix="", key=info.key, modified_at=info.last_modified)
        for (zone, _), infos in top.items()
        for info in infos
    ]
    choices = choose_revisions(top_copies)
    early = {name: each for name, each in choices.items() if name[0] not in {OWNER, LEDGER}}
    own = list(local)
    top_own = [each for each in own if each.kind not in OWNER_KINDS]
    revisions = _by_kind(_complete(reader.read_newest(early, "resources"), top_own))
    decoder = _Decoder()
    resources = {kind: decoder.decode_all(revisions[kind]) for kind in KINDS if kind not in _AFTER_SLOTS}
    _check_recorded_zones(resources["zones"], zones, skipped, regions)
    slots = {slot.uid: slot for pool in resources["pools"] for slot in map(_read_slot, pool.rows["slots"])}
    objects, slot_copies = _list_slots(reader, slots.values())
    owner_copies = [copy for copy in top_copies if (named := name_revision(copy.key)) and named[0][0] == OWNER]
    owner_choices = choose_revisions([*slot_copies, *owner_copies])
    slot_own = [each for each in own if each.kind in OWNER_KINDS]
    revisions |= _by_kind(_complete(reader.read_newest(owner_choices, "versions and disks"), slot_own))
    resources |= {kind: decoder.decode_all(revisions[kind]) for kind in _AFTER_SLOTS if kind != LEDGER}
    ledger = _read_ledger(reader, decoder, [each for name, each in choices.items() if name[0] == LEDGER])
    every = [choice for each in (*choices.values(), *owner_choices.values()) for choice in each]
    return RebuildPlan(
        reader=reader,
        resources={kind: resources[kind] for kind in KINDS if kind in resources},
        slots=slots,
        objects=objects,
        deleted=[each for every in revisions.values() for each in every if each.is_deleted],
        refused=[*reader.outdated, *decoder.refused],
        ledger=ledger,
        checkpoints=sorted({each for zone in zones for each in zone.objects.checkpoints}),
        newest_at={choice.number: min(copy.modified_at for copy in choice.copies) for choice in every},
        last_number=max((choice.number for choice in every), default=0),
        absent=_find_absent(resources, choices, zones),
    )


def _complete(found: Sequence[Revision], local: Iterable[Revision]) -> list[Revision]:
    """Add the resources of the catalog that have no revision in the buckets."""
    names = {(each.kind, each.uid) for each in found}
    return [*found, *(each for each in local if (each.kind, each.uid) not in names)]


class _Decoder:
    """Decodes the rows of resources in the order of `KINDS`, and notes refused resources."""

    def __init__(self) -> None:
        self.refused: list[RefusedResource] = []
        self._checker = RowChecker()

    def decode_all(self, revisions: Iterable[Revision]) -> list[FoundResource]:
        """Decode the resources of a kind that exist. Of two resources with the same name, the newer resource stays."""
        found: list[FoundResource] = []
        for revision in sorted(revisions, key=lambda each: -each.number):
            if revision.is_deleted:
                continue
            try:
                found.append(FoundResource(revision=revision, rows=self._checker.decode(revision)))
            except StoreMismatch as error:
                reason = error.found or error.message
                self.refused.append(RefusedResource(kind=revision.kind, uid=revision.uid, reason=reason))
        return found


def _by_kind(revisions: Iterable[Revision]) -> defaultdict[str, list[Revision]]:
    found: defaultdict[str, list[Revision]] = defaultdict(list)
    for revision in revisions:
        found[revision.kind].append(revision)
    return found


def _list_slots(reader: BucketReader, slots: Iterable[Slot]) -> tuple[dict[str, frozenset[str]], list[RevisionCopy]]:
    """List the manifests of each slot by uid, and the revisions in all slots."""
    places = {
        (zone, slot.prefix + folder): (slot, folder)
        for slot in slots
        for zone in reader.zones_of(slot)
        for folder in (OWNERS, MANIFESTS)
    }
    objects: defaultdict[str, set[str]] = defaultdict(set)
    copies: list[RevisionCopy] = []
    for (zone, place), infos in reader.list_all(places).items():
        slot, folder = places[zone, place]
        if folder == MANIFESTS:
            objects[slot.uid].update(info.key.removeprefix(slot.prefix) for info in infos)
            continue
        copies += [
            RevisionCopy(
                zone=zone, prefix=slot.prefix, key=info.key.removeprefix(slot.prefix), modified_at=info.last_modified
            )
            for info in infos
        ]
    return {uid: frozenset(keys) for uid, keys in objects.items()}, copies


def _read_ledger(reader: BucketReader, decoder: _Decoder, choices: Sequence[Sequence[RevisionChoice]]) -> FoundLedger:
    """Read all checkpoints, and find the checkpoints whose previous checkpoint is missing."""
    every = sorted((choice for each in choices for choice in each), key=lambda choice: choice.number)
    found = reader.read_every(every, "ledger")
    if not found:
        return FoundLedger()
    macs = [read_revision_mac(body, revision.object_key) for revision, body in found]
    newest = max(revision.number for revision, _ in found)
    return FoundLedger(
        checkpoints=[(revision.number, mac) for (revision, _), mac in zip(found, macs, strict=True)],
        rows=[each.rows for each in reversed(decoder.decode_all(revision for revision, _ in found))],
        breaks=[revision.number for revision, _ in found if revision.previous not in {None, *macs}],
        newest_at=min(copy.modified_at for each in every if each.number == newest for copy in each.copies),
    )


def _find_absent(
    resources: Mapping[str, Sequence[FoundResource]],
    choices: Mapping[ResourceName, Sequence[RevisionChoice]],
    zones: Sequence[FoundZone],
) -> list[tuple[str, str, str]]:
    """Find the regions without the newest revision of a resource without a slot."""
    used = sorted({str(row["region"]) for zone in resources["zones"] for row in zone.rows["zones"]})
    absent: list[tuple[str, str, str]] = []
    for kind, found in resources.items():
        for each in found if kind not in OWNER_KINDS else ():
            number = each.revision.number
            chosen = [choice for choice in choices.get((kind, uid_part(each.uid)), ()) if choice.number == number]
            there = {zones[copy.zone].region for choice in chosen for copy in choice.copies}
            absent += [(kind, each.uid, region) for region in used if region not in there]
    return absent


def _check_recorded_zones(
    recorded: Sequence[FoundResource],
    zones: Sequence[FoundZone],
    skipped: Collection[str],
    regions: Collection[str] | None,
) -> None:
    """Refuse a rebuild without a zone that the installation used, because newer revisions may be there."""
    uids = {(zone.region, zone.zone): zone.objects.uids for zone in zones}
    problems = []
    for resource in recorded:
        for row in resource.rows["zones"]:
            name = f"{row['region']}/{row['zone']}"
            if regions is not None and row["region"] not in regions:
                continue
            if name not in skipped and row["uid"] not in uids.get((row["region"], row["zone"]), ()):
                problems.append(f"{name}: the zone uid {row['uid']} of {row['place']} was not found")
    if problems:
        raise _zones_error(problems)


def _zones_error(problems: Sequence[str], *, is_foreign: bool = False) -> Conflict:
    adopt = "; to take over a bucket of another installation, use `imgstore catalog adopt --region REGION`"
    return Conflict(
        "Not all zones of the installation can be read, so newer changes may be missing.",
        found="; ".join(problems),
        expected="every zone that the installation has used",
        hint="mount or start the zones, or correct the credentials or --regions; to give up the content of a lost zone, name "
        "it with --skip-zone REGION/ZONE" + (adopt if is_foreign else ""),
        target="zones",
    )


def _read_slot(row: Mapping[str, Any]) -> Slot:
    key = SlotKey(
        pool_uid=row["pool_uid"],
        region=row["region"],
        storage_account_type=row["storage_account_type"],
        ordinal=row["ordinal"],
    )
    return Slot(uid=row["uid"], key=key, zone=row["zone"], bucket=row["bucket"])
