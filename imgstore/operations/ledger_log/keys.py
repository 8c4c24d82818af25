"""The keys that sign the checkpoints of the log, and their rotation (invariant M23)."""

from collections.abc import Callable, Sequence
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.ledger.log.log_entries import LogKey
from imgstore.ledger.log.signed_notes import add_signature, endorse_key, format_verifier_key, make_key_id, make_origin
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation

_PRIVATE_KEY_BYTES: Final = 32


def sign_with(private_key: bytes) -> Callable[[bytes], bytes]:
    """Return a function that signs with a private key (32 bytes)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - start-up time

    return Ed25519PrivateKey.from_private_bytes(private_key).sign


def find_public_key(private_key: bytes) -> bytes:
    """Return the public key (32 bytes) of a private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def check_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether a public key made a signature of a message."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def find_signing_key(keys: Sequence[LogKey]) -> LogKey | None:
    """Return the newest key if the key can sign."""
    return keys[-1] if keys and keys[-1].private_key is not None else None


def ensure_signing_key(transaction: Transaction, effects: Effects) -> tuple[LogKey, bytes]:
    """Return the key that signs, and its private part. The lock of the log must be held.

    The first checkpoint makes the first key. If the private part is lost, a new key follows without an endorsement.
    """
    keys = transaction.ledger_log.list_keys()
    found = find_signing_key(keys)
    if found is not None and found.private_key is not None:
        return found, found.private_key
    return _start_key(transaction, effects, keys)


def rotate_key(installation: Installation, principal: Principal) -> tuple[LogKey, str]:
    """Replace the signing key by a new key, which the present key endorses. Older checkpoints stay valid.

    The newest checkpoint also gets a signature of the new key. The private part of the present key is removed.

    Returns:
        The new key, and the text of its public part for verifiers.

    Raises:
        Conflict: the log is empty, so there is no key.
        AccessDenied: the principal is no administrator of the installation.
    """
    with (
        record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/bill/rotateKey"),
        installation.catalog.transaction() as transaction,
    ):
        log = transaction.ledger_log
        log.lock()
        head, keys = log.newest_head(), log.list_keys()
        if head is None or not keys:
            raise Conflict(
                "The ledger has no signing key yet.",
                found="no sealed entry",
                expected="a key, which the first sealed entry makes",
                hint="seal the entries with `imgstore bill seal` first",
                target="key",
            )
        key, private_key = _start_key(transaction, installation.effects, keys)
        origin = make_origin(transaction.installation.get().uid)
        note = add_signature(head.note, origin, key.public_key, sign_with(private_key), signed_at=transaction.now())
        log.replace_note(head, note)
        return key, format_verifier_key(origin, key.public_key)


def _start_key(transaction: Transaction, effects: Effects, keys: Sequence[LogKey]) -> tuple[LogKey, bytes]:
    """Make a new key, and retire the newest of `keys`."""
    log, now = transaction.ledger_log, transaction.now()
    origin = make_origin(transaction.installation.get().uid)
    private_key = effects.random_bytes(_PRIVATE_KEY_BYTES)
    public_key = find_public_key(private_key)
    endorsement = None
    if keys:
        former = keys[-1]
        if former.private_key is not None:
            endorsement = endorse_key(origin, public_key, former.public_key, sign_with(former.private_key))
        log.retire_key(former.kid, now)
    key = LogKey(
        kid=make_key_id(origin, public_key),
        number=len(keys) + 1,
        public_key=public_key,
        private_key=private_key,
        created_at=now,
        endorsement=endorsement,
    )
    log.add_key(key)
    return key, private_key
