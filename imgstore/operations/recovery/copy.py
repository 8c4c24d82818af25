"""Copy the catalog into another database, for a move between SQLite and PostgreSQL (invariant K5)."""

from contextlib import closing

from imgstore.catalog import Catalog
from imgstore.catalog.recovery.row_copies import RowCopy
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.recovery.byte_progress import ByteProgress


def copy_catalog(installation: Installation, principal: Principal, to: str) -> RowCopy:
    """Copy all rows into an empty database, compare both, and record the copy in both activity logs.

    Other processes may change the catalog during the copy. The result names the changed tables.

    Args:
        installation: the installation.
        principal: the operator.
        to: the address of the target.

    Raises:
        InvalidInput: the address is invalid, or names the present catalog.
        Conflict: the target is not empty.
        StoreMismatch: the present catalog or the target has another revision than this code.
        StoreError: a database refused.
    """
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/catalog/copy"):
        progress = ByteProgress(installation.subscriber, "copy of the catalog")
        copied = installation.catalog.copy_rows(to, progress.set)
        progress.end()
        with closing(Catalog.open(to, installation.effects)) as target, target.transaction() as transaction:
            now = transaction.now()
            transaction.activity.add(
                principal=principal.name,
                action="imgstore/catalog/copy",
                scope=INSTALLATION,
                outcome="Succeeded",
                detail=f"from {installation.catalog.place}",
                started_at=now,
                finished_at=now,
            )
    return copied
