"""The errors that every store tells in the same words."""

from imgstore.domain.errors import Conflict, ObjectCorrupt, ObjectNotFound
from imgstore.stores.interface import Accept


def missing_object_error(store: str, key: str) -> ObjectNotFound:
    """The error for a key that `store` does not hold."""
    return ObjectNotFound(
        f"There is no object '{key}'.",
        found=f"none in {store}",
        expected=f"an object '{key}'",
        hint="run `imgstore scrub` if something names it still",
        target=key,
    )


def damaged_object_error(store: str, key: str) -> ObjectCorrupt:
    """The error for bytes that the caller's `accept` did not take."""
    return ObjectCorrupt(
        f"The object '{key}' is damaged.",
        found=f"bytes in {store} that do not match its name",
        expected="bytes that match its name",
        hint="it is repaired from another replica, zone or region: run `imgstore scrub`",
        target=key,
    )


def existing_object_error(store: str, key: str) -> Conflict:
    """The error for a put with `only_if_absent` where something is."""
    return Conflict(
        f"The object '{key}' exists.",
        found=f"an object in {store}",
        expected="none",
        hint="read it: another writer was first",
        target=key,
    )


def check_accepted(store: str, key: str, body: bytes, accept: Accept | None) -> bytes:
    """The body itself, if `accept` takes it.

    Raises:
        ObjectCorrupt: it does not.
    """
    if accept is not None and not accept(body):
        raise damaged_object_error(store, key)
    return body
