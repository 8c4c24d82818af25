"""Find the keys that the newest recovery file does not contain (invariant K3)."""

from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.recovery import RecoveryCover
from imgstore.operations.installation import Installation
from imgstore.operations.recovery.recovery_keys import list_key_ids


def find_recovery_cover(installation: Installation, principal: Principal) -> RecoveryCover:
    """Compare the keys of the installation with the newest recovery file, as the catalog remembers."""
    authorize(principal, Action.READ, INSTALLATION)
    with installation.catalog.reading() as transaction:
        present = list_key_ids(
            transaction.pools.list(), transaction.signing_keys.list(), transaction.ledger_log.list_keys()
        )
        return RecoveryCover(
            written_at=transaction.recovery_keys.written_at(),
            missing=sorted(present - transaction.recovery_keys.ids()),
        )
