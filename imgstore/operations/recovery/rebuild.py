"""Rebuild a lost catalog from the buckets and a recovery file (invariants K6 to K8).

The plan is read first (`rebuild_plan.py`). The rows are then inserted in batches, each in a transaction, in an order in
which no row refers to a later row. The row of the installation is last. So an interrupted rebuild is no installation:
every other command refuses the catalog, and a repeated rebuild continues.

A rebuild changes a bucket in one case: the fingerprints of a pool whose key is lost are removed, and the next ingest
computes new fingerprints from the segments.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from imgstore.catalog import Catalog
from imgstore.catalog.storage.rebuilt_rows import Rows
from imgstore.domain.errors import Conflict, ImgstoreError
from imgstore.domain.identity.access import INSTALLATION
from imgstore.domain.recovery import LedgerRecovery, RebuildReport
from imgstore.domain.storage.object_keys import FINGERPRINTS
from imgstore.domain.storage.revisions import OWNER_KINDS
from imgstore.operations.gallery.galleries import FINGERPRINT_KEY_BYTES
from imgstore.operations.recovery.bucket_reader import report_progress
from imgstore.operations.recovery.rebuild_context import RebuildContext
from imgstore.operations.recovery.rebuild_plan import FoundResource, RebuildPlan, read_plan, select_zones
from imgstore.operations.recovery.rebuilt_intervals import reconcile_intervals
from imgstore.operations.recovery.rebuilt_manifests import ManifestIndex, pack_contents
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.operations.recovery.regions_copy import write_regions_file

_BATCH: Final = 500
"""Resources of one transaction."""
_WHAT: Final = "imgstore/catalog/rebuild"
LEDGER_KEYS: Final = "ledger-keys"
"""The kind of revisions with the public parts of the keys of the ledger's log."""


def rebuild_catalog(
    context: RebuildContext, operator: str, *, dry_run: bool, skipped: Collection[str] = ()
) -> RebuildReport:
    """Rebuild the catalog of an installation. May be killed and repeated.

    Args:
        context: the collaborators.
        operator: the name for the activity log.
        dry_run: read the buckets, and write nothing.
        skipped: names of lost zones ("eastus/1").

    Raises:
        Conflict: the catalog is not empty, or a zone cannot be read.
        StoreError: a zone or the database does not answer.
        OutputError: the home cannot be written.
        HostFault: a file in the home cannot be read.
    """
    _check_empty(context.catalog)
    usable, left_out = select_zones(context.zones, context.keys, skipped)
    plan = read_plan(usable, context.keys, skipped, context.subscriber)
    index = ManifestIndex(plan)
    ledger = LedgerRecovery(
        checkpoints=len(plan.ledger.checkpoints),
        charges=len({row["key"] for rows in plan.ledger.rows for row in rows["ledger"]}),
        intervals=len({row["uid"] for rows in plan.ledger.rows for row in rows["intervals"]}),
        lost_since=plan.ledger.newest_at,
        lost_until=context.effects.now(),
        breaks=plan.ledger.breaks,
    )
    segments: int | None = None
    regions_file: Path | None = None
    if not dry_run:
        assert context.catalog is not None, "only a dry run needs no catalog"
        rebuild = _Rebuild(
            context=context, catalog=context.catalog, plan=plan, index=index, begun_at=context.effects.now()
        )
        ledger = rebuild.insert_rows(ledger)
        regions_file = rebuild.write_regions_file()
        segments = rebuild.finish(operator, is_partial=bool(left_out))
    return RebuildReport(
        installation_uid=context.keys.installation_uid,
        is_done=not dry_run,
        resources={kind: len(found) for kind, found in plan.resources.items()},
        deleted=Counter(each.kind for each in plan.deleted),
        rows=_count_rows(plan),
        segments=segments,
        refused=plan.reader.refused,
        refused_resources=plan.refused,
        missing_manifests=index.missing,
        unfinished_manifests=index.unfinished,
        new_pool_keys=_list_new_pools(plan, context.keys),
        skipped_zones=left_out,
        ledger=ledger,
        regions_file=regions_file,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rebuild:
    """The execution of a plan."""

    context: RebuildContext
    catalog: Catalog
    plan: RebuildPlan
    index: ManifestIndex
    begun_at: datetime

    def insert_rows(self, ledger: LedgerRecovery) -> LedgerRecovery:
        """Insert all rows except the row of the installation. Return the report of the ledger with changed intervals."""
        with report_progress(self.context.subscriber, "catalog", sum(map(len, self.plan.resources.values()))) as count:
            for kind, found in self.plan.resources.items():
                ordered = sorted(found, key=partial(_age_of, kind)) if kind in OWNER_KINDS else found
                for batch in _split(ordered) if kind != "installation" else ():
                    if kind in OWNER_KINDS:
                        self._insert_owners(kind, batch)
                    else:
                        self._insert(kind, batch)
                    count(len(batch))
        with self.catalog.transaction() as transaction:
            for rows in self.plan.ledger.rows:
                transaction.rebuilt_rows.replace_ledger(rows)
            transaction.ledger_log.rebuild_subtrees()
        opened = closed = 0
        for slot in self.plan.slots.values():
            with self.catalog.transaction() as transaction:
                counts = reconcile_intervals(
                    transaction, self.context.effects, slot, closed_at=self.plan.ledger.newest_at
                )
            opened, closed = opened + counts.opened, closed + counts.closed
        remove_fingerprints(self.plan, _list_new_pools(self.plan, self.context.keys))
        return replace(ledger, opened_intervals=opened, closed_intervals=closed)

    def write_regions_file(self) -> Path | None:
        """Write the regions.yaml of the recovery file, before the catalog is an installation.

        After an error, the repeated command can continue, and its report is complete.

        Raises:
            OutputError: the home cannot be written.
            HostFault: a file in the home cannot be read.
        """
        home = self.context.regions_home
        try:
            return None if home is None else write_regions_file(home, self.context.keys)
        except ImgstoreError as error:
            error.add_note("the catalog is not complete yet: the same command continues the rebuild")
            raise

    def _insert(self, kind: str, batch: Sequence[FoundResource]) -> None:
        keys = {pool.uid: pool.fingerprint_key for pool in self.context.keys.pools}
        rows = merge_rows(resource.rows for resource in batch)
        if kind == "pools":
            for row in rows["pools"]:
                key = keys.get(row["uid"]) or self.context.effects.random_bytes(FINGERPRINT_KEY_BYTES)
                row["fingerprint_key"] = key
        if kind == LEDGER_KEYS:
            fill_private_keys(rows, self.context.keys)
        with self.catalog.transaction() as transaction:
            transaction.rebuilt_rows.insert(rows)

    def _insert_owners(self, kind: str, batch: Sequence[FoundResource]) -> None:
        """Insert versions or stored disks with their manifests and segments, unless an earlier run has done so."""
        with self.catalog.reading() as transaction:
            present = transaction.rebuilt_rows.list_present(kind, [each.uid for each in batch])
        absent = [each for each in batch if each.uid not in present]
        contents = self.index.read(absent)
        self.index.note_unreadable(kind, absent, contents)
        repaired = [self.index.repair_rows(kind, each) for each in absent]
        intact = merge_rows(rows for rows, is_changed in repaired if not is_changed)
        changed = merge_rows(rows for rows, is_changed in repaired if is_changed)
        manifests = [*intact.get("manifests", ()), *changed.get("manifests", ())]
        with self.catalog.transaction() as transaction:
            kept = {row["uid"] for row in manifests}
            oldest_first = (row for each in absent for row in each.rows["manifests"] if row["uid"] in kept)
            wanted = [(self.plan.slots[row["slot_uid"]].key.pool_uid, row["digest"]) for row in oldest_first]
            packed = pack_contents(transaction, contents, wanted)
            for row in manifests:
                row["segment_ids"] = packed[self.plan.slots[row["slot_uid"]].key.pool_uid, row["digest"]]
            transaction.rebuilt_rows.insert(intact)
            transaction.rebuilt_rows.insert(changed, keeps_marks=True)

    def finish(self, operator: str, *, is_partial: bool) -> int:
        """Make the catalog an installation, in one transaction. Return the number of segments."""
        plan, keys = self.plan, self.context.keys
        found = [dict(row) for each in plan.resources["installation"] for row in each.rows["installation"]]
        own = found[0] if found else _make_installation_row(keys)
        own["hmac_key"] = keys.hmac_key
        is_partial = is_partial or bool(plan.refused)
        own["keeps_unknown"] = own["keeps_unknown"] or is_partial
        with self.catalog.transaction() as transaction:
            rows = transaction.rebuilt_rows
            rows.insert({"signing_keys": [asdict(key) for key in keys.signing_keys]})
            rows.insert({"ledger_keys": [asdict(key) for key in keys.ledger_keys]}, keeps_marks=True)
            rows.insert_checkpoints(plan.checkpoints)
            rows.insert_ledger_checkpoints(plan.ledger.checkpoints)
            rows.insert({"installation": [own]}, keeps_marks=is_partial or not found)
            transaction.revision_marks.raise_to(plan.last_number)
            for kind, uid, region in plan.absent:
                transaction.revision_marks.add(kind, uid, region=region)
            transaction.recovery_keys.replace(keys.ids, keys.written_at)
            transaction.activity.add(
                principal=operator,
                action=_WHAT,
                scope=INSTALLATION,
                outcome="Succeeded",
                detail=f"recovery file of {keys.written_at:%Y-%m-%d}",
                started_at=self.begun_at,
                finished_at=transaction.now(),
            )
            return sum(len(transaction.segments.all_ids(pool.uid)) for pool in transaction.pools.list())


def _check_empty(catalog: Catalog | None) -> None:
    if catalog is None:
        return
    with catalog.reading() as transaction:
        found = transaction.installation.find()
    if found is not None:
        raise Conflict(
            "The catalog is not empty, so nothing was rebuilt.",
            found=f"installation {found.uid} in {catalog.place}",
            expected="an empty catalog, or the catalog of an interrupted rebuild",
            hint="move the damaged catalog away first, or name another home (--home) or database (--database). "
            "`imgstore catalog adopt` takes newer objects into an older catalog",
            target=catalog.place,
        )


def _list_new_pools(plan: RebuildPlan, keys: RecoveryKeys) -> list[str]:
    known = {pool.uid for pool in keys.pools}
    return sorted(each.uid for each in plan.resources["pools"] if each.uid not in known)


def _count_rows(plan: RebuildPlan) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for found in plan.resources.values():
        for each in found:
            counts.update({name: len(rows) for name, rows in each.rows.items()})
    return dict(counts)


def _make_installation_row(keys: RecoveryKeys) -> dict[str, Any]:
    """Return the row of an installation without a valid revision."""
    return {
        "id": 1,
        "uid": keys.installation_uid,
        "subscription": keys.subscription,
        "created_at": keys.created_at,
        "keeps_unknown": True,
        "records_every_zone": False,
    }


def fill_private_keys(rows: Rows, *sources: RecoveryKeys) -> None:
    """Add the private parts to the keys of the ledger's log. A retired key has no private part."""
    known = {key.kid: key.private_key for keys in sources for key in keys.ledger_keys}
    for row in rows.get("ledger_keys", ()):
        row["private_key"] = known.get(row["kid"]) if row["retired_at"] is None else None


def remove_fingerprints(plan: RebuildPlan, pools: Collection[str]) -> None:
    """Remove the fingerprints of pools with new keys. A fingerprint of another key equals no block."""
    for slot in plan.slots.values():
        for zone in plan.reader.zones_of(slot) if slot.key.pool_uid in pools else ():
            store = plan.reader.store(zone)
            store.delete(info.key for info in store.list(slot.prefix + FINGERPRINTS))


def merge_rows(every: Iterable[Rows]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of several resources by table, in the order of the tables."""
    merged: dict[str, list[dict[str, Any]]] = {}
    for rows in every:
        for name, found in rows.items():
            merged.setdefault(name, []).extend(found)
    return merged


def _age_of(kind: str, owner: FoundResource) -> tuple[datetime, str]:
    """Return the key that sorts versions or stored disks by their creation."""
    (row,) = owner.rows[kind]
    return row["published_at" if kind == "versions" else "created_at"], owner.uid


def _split(found: Sequence[FoundResource]) -> Iterator[Sequence[FoundResource]]:
    for at in range(0, len(found), _BATCH):
        yield found[at : at + _BATCH]
