"""An audit of revisions that is independent of the code that writes revisions: read all buckets, compare the catalog."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from imgstore.catalog.storage.revisions import KINDS, Kind
from imgstore.domain.storage.object_keys import INSTALLATION, OWNERS
from imgstore.domain.storage.revisions import JsonRow, Revision, decode_revision, derive_revision_key
from imgstore.operations.installation import Installation
from imgstore.stores.interface import ObjectStore


def read_revisions(installation: Installation, region: str | None = None) -> dict[tuple[str, str], Revision]:
    """Return the revision with the highest number of each kind and uid, as a rebuild would.

    Args:
        installation: the installation.
        region: read only this region. None reads every used region.
    """
    with installation.catalog.reading() as transaction:
        key = derive_revision_key(transaction.installation.hmac_key())
        regions = sorted({zone.region for zone in transaction.zones.list()})
        slots = transaction.slots.list_all()
    found: dict[tuple[str, str], Revision] = {}

    def read(store: ObjectStore, prefix: str, folder: str) -> None:
        for info in store.list(prefix + folder):
            revision = decode_revision(
                store.get(info.key), key, object_key=info.key.removeprefix(prefix), installation_uid=installation.uid
            )
            name = revision.kind, revision.uid
            if name not in found or found[name].number < revision.number:
                found[name] = revision

    for name in regions:
        if region in (None, name):
            read(installation.locator.installation_store(name), "", INSTALLATION)
    for slot in slots:
        if region in (None, slot.key.region):
            read(installation.locator.store(slot), slot.prefix, OWNERS)
    return found


def check_revisions(installation: Installation, *, deferred: bool = False) -> None:
    """Check that the newest revisions in the buckets are the catalog.

    Args:
        installation: the installation.
        deferred: also check the kinds that only the background pass writes, and the checkpoints of the ledger.
    """
    revisions = read_revisions(installation)
    living: defaultdict[str, dict[str, object]] = defaultdict(dict)
    for (name, uid), revision in revisions.items():
        if not revision.is_deleted and not KINDS[name].is_ledger:
            living[name][uid] = _leave_out_quiet(KINDS[name], revision.rows)
    with installation.catalog.reading() as transaction:
        for kind in KINDS.values():
            if kind.is_ledger or (kind.is_deferred and not deferred):
                continue
            rows = transaction.revision_marks.read(kind.name, transaction.revision_marks.list_uids(kind.name))
            expected = {uid: _leave_out_quiet(kind, each) for uid, each in rows.items()}
            assert living[kind.name] == expected, kind.name
        if deferred:
            assert not transaction.revision_marks.list_resources()


def _leave_out_quiet(kind: Kind, rows: Mapping[str, Sequence[JsonRow]]) -> dict[str, list[dict[str, object]]]:
    """Return the rows without the columns whose change alone needs no revision. Progress may be saved at any time."""
    quiet = {member.table.name: member.quiet for member in kind.members}
    return {
        table: [{name: value for name, value in row.items() if name not in quiet[table]} for row in some]
        for table, some in rows.items()
    }
