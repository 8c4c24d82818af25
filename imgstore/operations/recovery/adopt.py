"""Take newer objects of the buckets into an older catalog (invariant K9).

A catalog from a backup does not have the changes since the backup. The buckets describe all resources, so the newest
revision of each resource replaces the row of the catalog. The catalog changes in one transaction, or not at all.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.catalog.storage.ledger_log import LOG_TABLES
from imgstore.catalog.storage.rebuilt_rows import Rows, primary_key
from imgstore.catalog.storage.revisions import KINDS, decode_row, select_loud_rows
from imgstore.domain.errors import Conflict
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.recovery import AdoptedResource, AdoptionReport
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.revisions import JsonRow, Revision
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.recovery.rebuild import fill_private_keys, merge_rows, remove_fingerprints
from imgstore.operations.recovery.rebuild_plan import FoundResource, read_plan, select_zones
from imgstore.operations.recovery.rebuilt_intervals import reconcile_intervals
from imgstore.operations.recovery.rebuilt_manifests import Content, ManifestIndex
from imgstore.operations.recovery.recovery_file import check_same_installation, read_present_keys
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.operations.recovery.revision_rows import read_rows, write_rows

_WHAT: Final = "imgstore/catalog/adopt"
_MARKS_MAX: Final = 2**31 - 1
_OWN_KIND: Final = "installation"
"""The kind with the state of the catalog itself, which is never adopted."""
_KEPT_TABLES: Final = frozenset({"slots"})
"""Tables whose rows are never removed from a resource that stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    """A resource that differs between the buckets and the catalog."""

    revision: Revision
    change: str
    local: Mapping[str, Sequence[JsonRow]]
    """The rows of the catalog."""
    found: FoundResource | None
    """None for a deleted resource."""


def adopt_newer(
    installation: Installation,
    principal: Principal,
    *,
    dry_run: bool,
    keys: RecoveryKeys | None = None,
    skipped: Collection[str] = (),
) -> AdoptionReport:
    """Take the resources whose newest state is in the buckets into the catalog. May be repeated.

    Args:
        installation: the installation.
        principal: an administrator.
        dry_run: report the differences, and change nothing.
        keys: a newer recovery file, with the keys of pools and the signing keys that the catalog does not have.
        skipped: names of lost zones ("eastus/1").

    Raises:
        Conflict: a zone cannot be read, or a resource of the catalog has the name of a newer resource.
        InvalidInput: the recovery file belongs to another installation.
        AccessDenied: the principal is no administrator of the installation.
    """
    authorize(principal, Action.ADMINISTER, INSTALLATION)
    if dry_run:
        return _Adoption(installation, keys, skipped).report(is_done=False)
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, _WHAT):
        adoption = _Adoption(installation, keys, skipped)
        adoption.apply()
        return adoption.report(is_done=True)


class _Adoption:
    """The differences between the buckets and the catalog."""

    def __init__(self, installation: Installation, keys: RecoveryKeys | None, skipped: Collection[str]) -> None:
        self._installation = installation
        with installation.catalog.reading() as transaction:
            present = read_present_keys(installation, transaction)
            self._local = _read_local(transaction)
            self._marked = _find_local_changes(transaction, installation)
            self._marked_entries = {
                (mark.kind, mark.uid) for mark in transaction.revision_marks.list_for_ledger(_MARKS_MAX)
            }
            self._charges = {row.key for row in transaction.ledger.rows()}
            self._is_outdated = transaction.installation.get().outdated is not None
        if keys is not None:
            check_same_installation(keys, present, "with the keys")
        self._present = present
        self._keys = present if keys is None else keys
        usable, self._left_out = select_zones(installation.locator.find_zones(), present, skipped)
        local = [
            Revision(kind=kind, uid=uid, number=0, installation_uid=installation.uid, rows=rows)
            for kind, found in self._local.items()
            for uid, rows in found.items()
        ]
        self._plan = read_plan(usable, present, skipped, installation.subscriber, local)
        self._index = ManifestIndex(self._plan)
        self._differences = list(self._find_differences())
        self._check_local_names()
        with installation.catalog.reading() as transaction:
            self._unknown = transaction.sequence.find_unknown(self._plan.checkpoints)

    def apply(self) -> None:
        """Change the catalog in one transaction."""
        plan, installation = self._plan, self._installation
        is_older = self._is_outdated or bool(self._unknown)
        if not is_older and not self._differences:
            return
        contents, rows = self._read_rows()
        new_pools = self._list_new_pools()
        remove_fingerprints(plan, new_pools)
        gone = self._list_gone_rows()
        adopted = [(each.revision.kind, each.revision.uid) for each in self._differences]
        is_partial = bool(self._left_out or plan.refused)
        with installation.catalog.transaction() as transaction:
            table = transaction.rebuilt_rows
            if is_older:
                table.forget_works()
            table.delete(gone)
            keys = {pool.uid: pool.fingerprint_key for pool in (*self._keys.pools, *self._present.pools)}
            fill_private_keys(rows, self._present, self._keys)
            write_rows(transaction, installation.effects, plan.slots, rows, contents, keys)
            if is_older:
                transaction.ledger_log.remove_unwritten(self._marked_entries)
            for each in plan.ledger.rows:
                table.replace_ledger(self._drop_local_charges(each))
            transaction.ledger_log.rebuild_subtrees()
            table.insert_ledger_checkpoints(plan.ledger.checkpoints)
            table.insert_checkpoints(self._unknown)
            table.insert({"signing_keys": self._list_signing_keys(transaction)}, keeps_marks=True)
            table.remove_marks(adopted)
            transaction.revision_marks.raise_to(plan.last_number)
            transaction.installation.adopt(keeps_unknown=is_partial)
            for slot in plan.slots.values():
                reconcile_intervals(transaction, installation.effects, slot, closed_at=plan.ledger.newest_at)

    def report(self, *, is_done: bool) -> AdoptionReport:
        """Return the differences."""
        plan = self._plan
        resources = [
            AdoptedResource(
                kind=each.revision.kind,
                uid=each.revision.uid,
                name=_name(each.revision.kind, each.revision.rows or each.local, each.revision.uid),
                change=each.change,
                changed_at=plan.newest_at[each.revision.number],
            )
            for each in self._differences
        ]
        owners = {each.revision.uid for each in self._differences}
        return AdoptionReport(
            is_done=is_done,
            resources=resources,
            newest_at=max((each.changed_at for each in resources), default=None),
            checkpoints=len(self._unknown),
            charges=len({row["key"] for rows in plan.ledger.rows for row in rows["ledger"]} - self._charges),
            refused=plan.reader.refused,
            refused_resources=plan.refused,
            missing_manifests=[each for each in self._index.missing if each.owner_uid in owners],
            new_pool_keys=self._list_new_pools(),
            skipped_zones=self._left_out,
        )

    def _find_differences(self) -> Iterable[_Difference]:
        for kind, found in self._plan.resources.items():
            for each in found if kind != _OWN_KIND else ():
                local = self._local[kind].get(each.uid, {})
                if not self._is_newer(each.revision):
                    continue
                if select_loud_rows(kind, each.revision.rows) != select_loud_rows(kind, local):
                    change = "changed" if local else "new"
                    yield _Difference(revision=each.revision, change=change, local=local, found=each)
        for revision in self._plan.deleted:
            local = self._local.get(revision.kind, {}).get(revision.uid, {})
            if local and self._is_newer(revision):
                yield _Difference(revision=revision, change="deleted", local=local, found=None)

    def _is_newer(self, revision: Revision) -> bool:
        """Return whether the catalog has no later change of the resource. The sequence of marks numbers revisions."""
        return revision.number > self._marked.get((revision.kind, revision.uid), 0)

    def _drop_local_charges(self, rows: Rows) -> Rows:
        """Leave out rows of the ledger with a later change in the catalog."""
        return {
            name: [
                row
                for row in found
                if name in LOG_TABLES or (name, row[primary_key(name)[0]]) not in self._marked_entries
            ]
            for name, found in rows.items()
        }

    def _check_local_names(self) -> None:
        """Refuse an adoption in which a resource of the catalog alone cannot stay."""
        read = {(each.revision.kind, each.uid) for found in self._plan.resources.values() for each in found}
        own = [
            each
            for each in self._plan.refused
            if each.uid in self._local.get(each.kind, {}) and (each.kind, each.uid) not in read
        ]
        if own:
            raise Conflict(
                "Resources of the catalog do not fit to newer resources in the buckets, so nothing was adopted.",
                found="; ".join(
                    f"{each.kind} {_name(each.kind, self._local[each.kind][each.uid], each.uid)} ({each.uid}): {each.reason}"
                    for each in own
                ),
                expected="no resource of the same name, and the parents of each resource",
                hint="delete these resources of the catalog, and run this command again. Versions and disks can be deleted after "
                "`imgstore regions accept-catalog`, which keeps the newer objects",
                target="catalog",
            )

    def _read_rows(self) -> tuple[dict[Digest, Content], dict[str, list[dict[str, Any]]]]:
        """Return the contents of manifests, and the rows to write."""
        found: defaultdict[str, list[FoundResource]] = defaultdict(list)
        for each in self._differences:
            if each.found is not None:
                found[each.revision.kind].append(each.found)
        return read_rows(self._index, found)

    def _list_gone_rows(self) -> Rows:
        """Return the rows of the catalog that the newest revisions do not have."""
        gone: list[Rows] = []
        by_kind = {kind: [each for each in self._differences if each.revision.kind == kind] for kind in KINDS}
        for differences in by_kind.values():
            for each in differences:
                local = _decode_local(each.revision, each.local)
                if each.found is None:
                    gone.append(local)
                    continue
                kept = {name: {_primary_key(name, row) for row in rows} for name, rows in each.found.rows.items()}
                gone.append(
                    {
                        name: [row for row in rows if _primary_key(name, row) not in kept.get(name, ())]
                        for name, rows in local.items()
                        if name not in _KEPT_TABLES
                    }
                )
        return merge_rows(gone)

    def _list_new_pools(self) -> list[str]:
        """Return the pools without a key in the catalog and in the recovery file."""
        known = {pool.uid for pool in (*self._keys.pools, *self._present.pools)}
        return sorted(each.uid for each in self._plan.resources["pools"] if each.uid not in known)

    def _list_signing_keys(self, transaction: Transaction) -> list[dict[str, Any]]:
        known = {key.kid for key in transaction.signing_keys.list()}
        return [asdict(key) for key in self._keys.signing_keys if key.kid not in known]


def _read_local(transaction: Transaction) -> dict[str, dict[str, Mapping[str, Sequence[JsonRow]]]]:
    """Read the resources of the catalog as plain values, by kind and uid."""
    found: dict[str, dict[str, Mapping[str, Sequence[JsonRow]]]] = {}
    for kind, each in KINDS.items():
        if not each.is_ledger:
            found[kind] = dict(transaction.revision_marks.read(kind, transaction.revision_marks.list_uids(kind)))
    return found


def _find_local_changes(transaction: Transaction, installation: Installation) -> dict[tuple[str, str], int]:
    """Return the highest mark of each resource with a change that no bucket has, by kind and uid."""
    marks = transaction.revision_marks.list(
        urgent_only=False, regions=list(installation.regions.regions), after=0, until=None, limit=_MARKS_MAX
    )
    return {(mark.kind, mark.uid): mark.number for mark in marks if mark.region is None}


def _decode_local(revision: Revision, local: Mapping[str, Sequence[JsonRow]]) -> Rows:
    """Decode the rows of the catalog, in the order of the tables."""
    return {
        member.table.name: [decode_row(member, row) for row in local.get(member.table.name, ())]
        for member in KINDS[revision.kind].members
    }


def _primary_key(table: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in primary_key(table))


def _name(kind: str, rows: Mapping[str, Sequence[Mapping[str, Any]]], uid: str) -> str:
    """Return the name of a resource for people."""
    row = next(iter(rows.get(KINDS[kind].root.table.name, ())), {})
    if kind == "versions":
        return f"{row['major']}.{row['minor']}.{row['patch']}"
    return str(row.get("name") or uid)
