"""Adopt the buckets of another installation, which is foreign or was reset (invariant K10).

The order of writes keeps each bucket with one owner at most, and each step may be killed and repeated:

1. Read the plan with the keys of the recovery file, and refuse everything that does not fit.
2. Mark each zone as a zone of this installation with an unfinished adoption. From now on both installations refuse the
   zone. Read the plan again, because the other installation may have written meanwhile.
3. Write all rows and the records of the zones in one transaction.
4. Remove the checkpoints and zone uids of the other installation.
5. Write the revision of each resource with the key of this installation and a higher number. Then remove the revisions
   of the other installation.
6. Mark the adoption of each zone as finished.

A repeated command finds the records of the zones in the catalog and continues with step 4. Before step 4, the other
installation can take a zone back with `imgstore regions init --zone`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.catalog.storage.revision_marks import RevisionMark
from imgstore.catalog.storage.revisions import KINDS
from imgstore.domain.errors import Conflict, InvalidInput, ObjectCorrupt, StoreMismatch, StoreUnreachable
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.recovery import AdoptedResource, BucketAdoptionReport
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.object_keys import LAYOUT_VERSION
from imgstore.domain.storage.revisions import OWNER_KINDS, decode_revision, derive_revision_key
from imgstore.domain.storage.zones import ZoneRecord
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.revision_upkeep import write_all_revisions
from imgstore.operations.recovery.adoption_plan import (
    KINDS_ADOPTED,
    count_resources,
    count_unknown_owners,
    name_resources,
    select_regions,
)
from imgstore.operations.recovery.bucket_reader import BucketReader
from imgstore.operations.recovery.rebuild import remove_fingerprints
from imgstore.operations.recovery.rebuild_plan import FoundResource, RebuildPlan, read_plan, select_zones
from imgstore.operations.recovery.rebuilt_intervals import reconcile_intervals
from imgstore.operations.recovery.rebuilt_manifests import ManifestIndex
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.operations.recovery.revision_rows import read_rows, write_rows
from imgstore.operations.stores.catalog_checks import check_catalog_is_current, refuse_if_outdated
from imgstore.regions import FoundZone

_WHAT: Final = "imgstore/catalog/adoptBuckets"
_MARKS_MAX: Final = 2**31 - 1
_INNER_KINDS: Final = frozenset({"pools", "placements"})
"""Kinds without a name for people."""
_ROUNDS_MAX: Final = 3
"""Writes of revisions. The first use of a new zone records the zone, which is a resource, too."""
_NAMES_MAX: Final = 20
"""The maximum number of names in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Takeover:
    """The zones of an adoption, and the progress of an earlier run."""

    former: str
    regions: Sequence[str]
    zones: Sequence[FoundZone]
    """The usable zones. Finished zones are left out."""
    skipped: Sequence[str]
    is_recorded: bool
    """Whether an earlier run has written the rows."""

    @property
    def names(self) -> list[tuple[str, str]]:
        """The region and name of each zone."""
        return [(each.region, each.zone) for each in self.zones]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overlap:
    """The adopted resources that meet resources of this catalog."""

    present: frozenset[tuple[str, str]]
    """The kind and uid of resources that this catalog has from an earlier adoption of another region."""
    groups: Mapping[str, str]
    """The uid of the present group of the same name, by uid of the adopted group."""
    pools: frozenset[str]
    """Pools of a subscription and region for which this catalog has a pool."""
    slots: Mapping[str, str]
    """The uid of the present slot of the same pool and place, by uid of the adopted slot."""

    def join(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row that refers to present groups and slots instead of adopted ones."""
        joined = dict(row)
        for column, uids in (("group_uid", self.groups), ("slot_uid", self.slots)):
            if row.get(column) in uids:
                joined[column] = uids[row[column]]
        return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The content of the buckets, as far as this catalog takes it."""

    plan: RebuildPlan
    index: ManifestIndex
    overlap: _Overlap
    names: Mapping[tuple[str, str], str]
    """The names of resources by kind and uid."""
    other_regions: Sequence[str]
    trimmed: Sequence[str]
    stored_bytes: int
    open_works: Sequence[str]
    last_change_at: datetime | None

    @property
    def new(self) -> dict[str, list[FoundResource]]:
        """The resources to write, by kind."""
        return {
            kind: [
                each
                for each in found
                if (kind, each.uid) not in self.overlap.present and each.uid not in self.overlap.groups
            ]
            for kind, found in self.plan.resources.items()
        }


def adopt_buckets(
    installation: Installation,
    principal: Principal,
    *,
    regions: Sequence[str],
    keys: RecoveryKeys | None,
    dry_run: bool,
    skipped: Collection[str] = (),
    is_partial: bool = False,
) -> BucketAdoptionReport:
    """Take over the buckets of another installation with their resources. May be killed and repeated.

    Args:
        installation: the installation.
        principal: an administrator.
        regions: the regions of regions.yaml with buckets of the other installation.
        keys: the recovery file of the other installation. None is refused.
        dry_run: report the content, and change nothing.
        skipped: names of lost zones ("eastus/1").
        is_partial: also adopt if revisions cannot be verified, or works of the other installation are not finished.

    Raises:
        InvalidInput: a region is unknown, or the recovery file is missing or belongs to another installation.
        Conflict: a bucket belongs to this installation, a name is taken, or something is not verified or not finished.
        CatalogOutdated: this catalog is older than its buckets.
        StoreError: a zone does not answer.
        AccessDenied: the principal is no administrator of the installation.
    """
    authorize(principal, Action.ADMINISTER, INSTALLATION)
    names = list(dict.fromkeys(installation.regions.get(each, target="region").name for each in regions))
    if keys is None:
        raise InvalidInput(
            "Without the recovery file of the other installation, its objects cannot be verified.",
            found=f"--region {', '.join(names)} without --recovery-file",
            expected="the recovery file of the installation that wrote the buckets",
            hint="the other installation writes the file with `imgstore catalog recovery-file FILE`. Without this file and "
            "without its catalog, the content cannot be adopted",
            target="recoveryFile",
        )
    takeover = _find_takeover(installation, names, keys, skipped)
    if dry_run:
        return _report(installation, takeover, keys, _read(installation, takeover, keys), is_done=False)
    about = f"installation {takeover.former}, regions {', '.join(names)}"
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, _WHAT, about=about):
        check_catalog_is_current(installation)
        found = _read(installation, takeover, keys)
        if found is not None:
            _check_complete(found, takeover, is_partial=is_partial)
        records = installation.locator.claim_zones(takeover.names, takeover.former)
        if found is not None:
            found = _read(installation, takeover, keys)
            assert found is not None, "no other run has written rows in this process"
            _check_complete(found, takeover, is_partial=is_partial)
            _write_rows(installation, takeover, keys, found, records)
        _finish(installation, takeover, keys)
        return _report(installation, takeover, keys, found, is_done=True)


def _find_takeover(
    installation: Installation, names: Sequence[str], keys: RecoveryKeys, skipped: Collection[str]
) -> _Takeover:
    """Find the zones of the regions, and check the owners of the zones."""
    zones = [each for each in installation.locator.find_zones() if each.region in names]
    with installation.catalog.reading() as transaction:
        records = {(each.region, each.zone): each for each in transaction.zones.list()}
    finished = [each for each in zones if _is_own(installation, each)]
    others = [each for each in zones if each not in finished]
    marks = [each.mark for each in others if each.mark is not None]
    if not marks:
        raise _nothing_error(names, finished)
    for mark in marks:
        if mark.signer != keys.installation_uid:
            raise InvalidInput(
                f"The recovery file does not belong to the bucket of {mark.region}.",
                found=f"the keys of installation {keys.installation_uid}",
                expected=f"the keys of installation {mark.signer}, which wrote the bucket",
                hint="name the newest recovery file of that installation",
                target="recoveryFile",
                code="RecoveryFileMismatch",
            )
    # An unfinished zone has objects of the former installation.
    signed = [
        replace(each, mark=None if each.mark is None else replace(each.mark, installation=each.mark.signer))
        for each in others
    ]
    usable, left_out = select_zones(signed, keys, skipped)
    for each in usable:
        _check_layout(each)
    recorded = [each for each in usable if _is_recorded(each, records)]
    strange = sorted({each.region for each in usable if (each.region, each.zone) in records and each not in recorded})
    own = sorted({each.region for each in finished} & {each.region for each in usable}) if not recorded else []
    if strange or own or len(recorded) not in {0, len(usable)}:
        wrong = strange or own or sorted({each.region for each in recorded})
        raise Conflict(
            f"Region {wrong[0]} of this installation has a store of its own.",
            found=f"the recorded zones of {', '.join(wrong)}",
            expected="regions that this installation has not used, or the regions of an interrupted adoption",
            hint="leave this region out, or name exactly the regions of the interrupted command. The content of an "
            "installation with the same region names comes back with `imgstore catalog rebuild` in another home",
            target="region",
        )
    return _Takeover(
        former=keys.installation_uid, regions=names, zones=usable, skipped=left_out, is_recorded=bool(recorded)
    )


def _check_layout(zone: FoundZone) -> None:
    """Refuse a zone with another layout, which a newer release may have written.

    Raises:
        StoreMismatch: the layout differs.
    """
    mark, store = zone.mark, zone.store
    assert mark is not None, "a usable zone has a mark"
    assert store is not None, "a readable zone has a store"
    replace(mark, layout=LAYOUT_VERSION).check(mark, where=store.name)


def _is_own(installation: Installation, zone: FoundZone) -> bool:
    mark = zone.mark
    return mark is not None and mark.installation == installation.uid and mark.adopted_from is None


def _is_recorded(zone: FoundZone, records: Mapping[tuple[str, str], ZoneRecord]) -> bool:
    record = records.get((zone.region, zone.zone))
    return record is not None and record.uid in zone.objects.uids


def _nothing_error(names: Sequence[str], finished: Sequence[FoundZone]) -> Conflict:
    if finished:
        return Conflict(
            f"The buckets of {', '.join(names)} belong to this installation.",
            found="the mark of this installation",
            expected="the mark of another installation",
            hint="if an earlier run of this command was interrupted after its last step, the adoption is complete. `imgstore "
            "catalog adopt` without --region takes newer objects of own buckets",
            target="region",
        )
    return Conflict(
        f"The zones of {', '.join(names)} have no mark of an installation.",
        found="no readable FORMAT object",
        expected="the buckets or folders of another installation",
        hint="correct the endpoints and buckets in regions.yaml, or move the folders of the zones into the home. "
        "`imgstore regions check` shows each zone",
        target="region",
    )


def _read(installation: Installation, takeover: _Takeover, keys: RecoveryKeys) -> _Found | None:
    """Read the resources of the buckets. Return None if an earlier run has taken the resources.

    Raises:
        Conflict: no revision can be verified, or a name is taken.
    """
    if takeover.is_recorded:
        return None
    # The listings of zones may be older than the marks.
    whole = read_plan(takeover.zones, keys, takeover.skipped, installation.subscriber, regions=takeover.regions)
    if whole.reader.refused and not any(whole.resources.values()):
        raise Conflict(
            "No object of the buckets has a valid signature, so nothing can be adopted.",
            found=f"{whole.reader.refused[0].key}: {whole.reader.refused[0].reason}",
            expected=f"objects that installation {takeover.former} has signed",
            hint="name the recovery file of exactly this installation. A copy of an installation has other keys",
            target="recoveryFile",
        )
    used = {str(row["region"]) for each in whole.resources["zones"] for row in each.rows["zones"]}
    plan, trimmed = select_regions(whole, installation.regions, takeover.regions)
    works, stored_bytes = _list_slots(plan)
    names = name_resources(plan)
    with installation.catalog.reading() as transaction:
        overlap = _find_overlap(transaction, plan, names)
    times = [*plan.newest_at.values(), *(at for _, at in works)]
    return _Found(
        plan=plan,
        index=ManifestIndex(plan),
        overlap=overlap,
        names=names,
        other_regions=sorted(used - set(takeover.regions)),
        trimmed=sorted(names["versions", uid] for uid in trimmed if ("versions", uid) not in overlap.present),
        stored_bytes=stored_bytes,
        open_works=[f"{slot} since {at:%Y-%m-%d %H:%M} UTC" for slot, at in works],
        last_change_at=max(times, default=None),
    )


def _list_slots(plan: RebuildPlan) -> tuple[list[tuple[str, datetime]], int]:
    """Return the slot and the start of each unfinished work, and the bytes of all segments."""
    places = {
        (plan.reader.zones_of(slot)[0], slot.prefix + folder): (slot, folder)
        for slot in plan.slots.values()
        for folder in (object_keys.WORKS, object_keys.SEGMENTS)
        if plan.reader.zones_of(slot)
    }
    works: list[tuple[str, datetime]] = []
    stored_bytes = 0
    for place, infos in plan.reader.list_all(places).items():
        slot, folder = places[place]
        if folder == object_keys.WORKS:
            works += [(str(slot.key), info.last_modified) for info in infos]
        else:
            stored_bytes += sum(info.stored_bytes for info in infos)
    return works, stored_bytes


def _find_overlap(transaction: Transaction, plan: RebuildPlan, names: Mapping[tuple[str, str], str]) -> _Overlap:
    """Find the resources of this catalog that meet adopted resources.

    Raises:
        Conflict: a resource of this catalog has the name of another adopted resource.
    """
    table = transaction.rebuilt_rows
    slots = [row for each in plan.resources["pools"] for row in each.rows["slots"]]
    overlap = _Overlap(present=frozenset(), groups={}, pools=frozenset(), slots=table.find_taken("slots", slots))
    taken = [
        f"slot {plan.slots[uid].key} in zone {transaction.slots.get(own).zone}"
        for uid, own in overlap.slots.items()
        if transaction.slots.get(own).zone != plan.slots[uid].zone
    ]
    for kind in KINDS_ADOPTED:
        found = plan.resources[kind]
        if kind == "placements":
            present = {each.uid for each in found if ("versions", each.uid) in overlap.present}
        else:
            present = set(table.list_present(kind, [each.uid for each in found]))
        overlap = replace(overlap, present=overlap.present | {(kind, uid) for uid in present})
        if kind == "placements":
            continue
        root = KINDS[kind].root.table.name
        rows = [overlap.join(row) for each in found if each.uid not in present for row in each.rows[root]]
        others = table.find_taken(root, rows)
        if kind == "groups":
            overlap = replace(overlap, groups=others)
        elif kind == "pools":
            overlap = replace(overlap, pools=frozenset(others))
        else:
            taken += [f"{kind} {names[kind, uid]}" for uid in others]
    if taken:
        more = f" and {len(taken) - _NAMES_MAX} more" if len(taken) > _NAMES_MAX else ""
        raise Conflict(
            "Resources of the other installation have names of resources here, so nothing was adopted.",
            found="; ".join(taken[:_NAMES_MAX]) + more,
            expected="names that this installation does not use",
            hint="delete these resources here first, or run the other installation in a home of its own: `imgstore catalog "
            "rebuild`",
            target="name",
        )
    return overlap


def _check_complete(found: _Found, takeover: _Takeover, *, is_partial: bool) -> None:
    """Refuse an adoption that would leave something out, unless the operator agrees."""
    if is_partial:
        return
    problems = [f"{each.kind} {each.uid}: {each.reason}" for each in found.plan.refused]
    if problems:
        raise Conflict(
            "Resources of the buckets cannot be verified, so nothing was adopted.",
            found="; ".join(problems[:_NAMES_MAX]),
            expected="a valid signature of each newest revision",
            hint="restore these objects from a copy of the bucket, or adopt all other resources with --partial",
            target="revisions",
        )
    if found.open_works:
        raise Conflict(
            f"Works of installation {takeover.former} are not finished, so the installation may still use the buckets.",
            found="; ".join(found.open_works[:_NAMES_MAX]),
            expected="no unfinished work",
            hint="finish the works there and stop its servers and workers. If that installation is lost, adopt with --partial",
            target="works",
        )


def _write_rows(
    installation: Installation,
    takeover: _Takeover,
    keys: RecoveryKeys,
    found: _Found,
    records: Iterable[ZoneRecord],
) -> None:
    """Write the adopted rows and the records of the zones in one transaction."""
    plan, overlap = found.plan, found.overlap
    remove_fingerprints(plan, _list_new_pools(found, keys))
    contents, rows = read_rows(found.index, found.new)
    present_pools = [each for each in plan.resources["pools"] if ("pools", each.uid) in overlap.present]
    rows.setdefault("slots", []).extend(dict(row) for each in present_pools for row in each.rows["slots"])
    rows["slots"] = [row for row in rows["slots"] if row["uid"] not in overlap.slots]
    adopted = {name: [overlap.join(row) for row in values] for name, values in rows.items()}
    for row in adopted.get("pools", ()):
        if row["uid"] in overlap.pools:  # The pool stays for its disks. New disks use the present pool.
            row |= {"subscription": None, "subscription_key": None, "region": None}
    slots = {overlap.slots.get(uid, uid): slot for uid, slot in plan.slots.items()}
    is_partial = bool(takeover.skipped or plan.refused or count_unknown_owners(plan))
    with installation.catalog.transaction() as transaction:
        refuse_if_outdated(transaction)
        if transaction.zones.find(*takeover.names[0]) is not None:
            return  # Another process has written the rows at the same time.
        for record in records:
            transaction.zones.add(record)
        known = {pool.uid: pool.fingerprint_key for pool in keys.pools}
        write_rows(transaction, installation.effects, slots, adopted, contents, known)
        transaction.revision_marks.raise_to(plan.last_number)
        transaction.installation.adopt(keeps_unknown=is_partial)
        for uid in slots:
            reconcile_intervals(transaction, installation.effects, transaction.slots.get(uid), closed_at=None)


def _list_new_pools(found: _Found, keys: RecoveryKeys) -> list[str]:
    known = {pool.uid for pool in keys.pools}
    return sorted(each.uid for each in found.new["pools"] if each.uid not in known)


def _finish(installation: Installation, takeover: _Takeover, keys: RecoveryKeys) -> None:
    """Replace the objects of the former installation, after the catalog has the rows. May be repeated."""
    installation.locator.clean_claimed_zones(takeover.names)
    waiting: Sequence[RevisionMark] = ()
    for _ in range(_ROUNDS_MAX):
        write_all_revisions(installation)
        with installation.catalog.reading() as transaction:
            waiting = _list_waiting(transaction, takeover.regions)
        if not waiting:
            break
    else:
        raise StoreUnreachable(
            "The adopted buckets do not have all new revisions yet.",
            found=f"{len(waiting)} resources, for example {waiting[0].kind} {waiting[0].uid}",
            expected="a revision of each adopted resource with the signature of this installation",
            hint="repeat the command as soon as all zones of the adopted regions answer",
            target="revisions",
        )
    _remove_former_revisions(installation, takeover, keys)
    installation.locator.finish_claims(takeover.names)


def _list_waiting(transaction: Transaction, regions: Sequence[str]) -> list[RevisionMark]:
    """Return the marks of revisions that an adopted bucket misses."""
    marks = transaction.revision_marks.list(urgent_only=False, regions=regions, after=0, until=None, limit=_MARKS_MAX)
    elsewhere: set[tuple[str, str]] = set()
    for kind in OWNER_KINDS:
        slots = transaction.revision_marks.find_slots(kind, {mark.uid for mark in marks if mark.kind == kind})
        elsewhere |= {
            (kind, uid) for uid, slot in slots.items() if transaction.slots.get(slot).key.region not in regions
        }
    return [mark for mark in marks if (mark.kind, mark.uid) not in elsewhere]


def _remove_former_revisions(installation: Installation, takeover: _Takeover, keys: RecoveryKeys) -> None:
    """Remove the revisions that the former installation has signed."""
    reader = BucketReader(zones=takeover.zones, keys=keys, subscriber=installation.subscriber)
    with installation.catalog.reading() as transaction:
        slots = [slot for slot in transaction.slots.list_all() if slot.key.region in takeover.regions]
    places = {(zone, object_keys.INSTALLATION): "" for zone in range(len(takeover.zones))}
    places |= {
        (zone, slot.prefix + object_keys.OWNERS): slot.prefix for slot in slots for zone in reader.zones_of(slot)
    }
    objects = [
        (place[0], places[place], info.key) for place, infos in reader.list_all(places).items() for info in infos
    ]
    former_key = derive_revision_key(keys.hmac_key)

    def is_former(item: tuple[int, str, str]) -> bool:
        zone, prefix, key = item
        try:
            decode_revision(
                reader.store(zone).get(key),
                former_key,
                object_key=key.removeprefix(prefix),
                installation_uid=keys.installation_uid,
            )
        except (ObjectCorrupt, StoreMismatch):
            return False
        return True

    former = [item for item, remove in zip(objects, reader.map(is_former, objects), strict=True) if remove]
    for zone in range(len(takeover.zones)):
        reader.store(zone).delete(key for of, _, key in former if of == zone)


def _report(
    installation: Installation, takeover: _Takeover, keys: RecoveryKeys, found: _Found | None, *, is_done: bool
) -> BucketAdoptionReport:
    with installation.catalog.reading() as transaction:
        own = transaction.installation.get().subscription
    report = BucketAdoptionReport(
        is_done=is_done,
        is_resumed=found is None,
        former_uid=takeover.former,
        regions=takeover.regions,
        own_subscription=own,
        skipped_zones=takeover.skipped,
    )
    if found is None:
        return report
    plan = found.plan
    resources = [
        AdoptedResource(
            kind=kind,
            uid=each.uid,
            name=found.names[kind, each.uid],
            change="merged" if each.uid in found.overlap.groups else "new",
            changed_at=plan.newest_at[each.revision.number],
        )
        for kind, every in plan.resources.items()
        for each in every
        if kind not in _INNER_KINDS and (kind, each.uid) not in found.overlap.present
    ]
    return replace(
        report,
        other_regions=found.other_regions,
        subscriptions=sorted(
            {str(row["subscription"]) for each in plan.resources["groups"] for row in each.rows["groups"]}
        ),
        counts=count_resources(found.new),
        resources=resources,
        present=sum(kind not in _INNER_KINDS for kind, _ in found.overlap.present),
        stored_bytes=found.stored_bytes,
        trimmed_versions=found.trimmed,
        unknown_owners=count_unknown_owners(plan),
        open_works=found.open_works,
        last_change_at=found.last_change_at,
        refused=plan.reader.refused,
        refused_resources=plan.refused,
        missing_manifests=found.index.missing,
        new_pool_keys=_list_new_pools(found, keys),
    )
