"""The quota of bytes of a subscription: `bytes_per_subscription_max`.

The quota counts virtual bytes, because virtual bytes are known before the first byte arrives and do not depend on other
stored content (`Quotas.used_bytes`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict
from imgstore.operations.installation import Installation


def check_quota(installation: Installation, added_bytes: int) -> None:
    """Refuse content that exceeds the quota of the subscription, before the content is fetched or converted.

    Args:
        installation: the installation, with the subscription.
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
    """Refuse the changes of the block if the subscription then exceeds the quota.

    A block that adds no bytes is permitted, also if the quota is lower than the present bytes.

    Args:
        installation: the installation, with the subscription.
        transaction: the transaction, which the error rolls back. The transaction must not hold a lock yet.

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
            found=f"{used_bytes + added_bytes} bytes with this request",
            expected=f"at most {most_bytes} bytes (bytes_per_subscription_max)",
            hint="delete disks, snapshots or image versions, or "
            + installation.limits.raise_hint("bytes_per_subscription_max"),
            target="bytes_per_subscription_max",
            code="QuotaExceeded",
        )
