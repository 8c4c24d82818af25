"""The quota of bytes of a subscription: ``bytes_per_subscription_max``.

It counts virtual bytes, since they are known before a byte arrives and do not depend on what others have stored
(`Quotas.used_bytes`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict
from imgstore.operations.installation import Installation


def check_quota(installation: Installation, added_bytes: int) -> None:
    """Refuse content that a subscription has no room for, before it is fetched or converted.

    Args:
        installation: where, and whose.
        added_bytes: virtual bytes of the content.

    Raises:
        Conflict: the quota would be exceeded.
    """
    if installation.limits.bytes_per_subscription_max is None:
        return
    with installation.catalog.reading() as transaction:
        _check(installation, transaction.quotas.used_bytes(installation.subscription), added_bytes)


@contextmanager
def enforce_quota(installation: Installation, transaction: Transaction) -> Iterator[None]:
    """Refuse what the block adds to the catalog, if the subscription exceeds its quota by that.

    What adds nothing is permitted, also where the quota was lowered below what is kept.

    Args:
        installation: where, and whose.
        transaction: the transaction, which the error undoes. No lock is held yet.

    Raises:
        Conflict: the quota is exceeded.
    """
    if installation.limits.bytes_per_subscription_max is None:
        yield
        return
    transaction.quotas.lock(installation.subscription)
    before_bytes = transaction.quotas.used_bytes(installation.subscription)
    yield
    after_bytes = transaction.quotas.used_bytes(installation.subscription)
    if after_bytes > before_bytes:
        _check(installation, after_bytes, 0)


def _check(installation: Installation, used_bytes: int, added_bytes: int) -> None:
    most_bytes = installation.limits.bytes_per_subscription_max
    if most_bytes is not None and used_bytes + added_bytes > most_bytes:
        raise Conflict(
            "Operation could not be completed as it results in exceeding the approved quota of bytes of the subscription.",
            found=f"{used_bytes + added_bytes} bytes with what was asked for",
            expected=f"at most {most_bytes} bytes (bytes_per_subscription_max)",
            hint="delete disks, snapshots or image versions, or "
            + installation.limits.raise_hint("bytes_per_subscription_max"),
            target="bytes_per_subscription_max",
            code="QuotaExceeded",
        )
