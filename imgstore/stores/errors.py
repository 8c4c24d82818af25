"""Errors with the same message in every store, and the format of an error for tables."""

from imgstore.domain.errors import Conflict, ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.storage import object_keys
from imgstore.stores.interface import Accept


def missing_object_error(store: str, key: str) -> ObjectNotFound:
    """Create the error for a key that `store` does not contain."""
    return ObjectNotFound(
        f"There is no object '{key}'.",
        found=f"none in {store}",
        expected=f"an object '{key}'",
        hint="run `imgstore scrub` if a version or disk still needs the object",
        target=key,
    )


def damaged_object_error(store: str, key: str) -> ObjectCorrupt:
    """Create the error for bytes that the caller's `accept` rejected."""
    return ObjectCorrupt(
        f"The object '{key}' is damaged.",
        found=f"bytes in {store} that do not match its name",
        expected="bytes that match its name",
        hint="run `imgstore scrub`, which repairs the object from another replica, zone or region",
        target=key,
    )


def existing_object_error(store: str, key: str) -> Conflict:
    """Create the error for a put with `only_if_absent` of an existing key."""
    return Conflict(
        f"The object '{key}' exists.",
        found=f"an object in {store}",
        expected="none",
        hint="read the object: another writer was first",
        target=key,
    )


def check_accepted(store: str, key: str, body: bytes, accept: Accept | None) -> bytes:
    """Return the body if `accept` accepts it.

    Raises:
        ObjectCorrupt: `accept` rejects the body.
    """
    if accept is not None and not accept(body):
        raise damaged_object_error(store, key)
    return body


def check_length(store: str, key: str, stored_bytes: int) -> None:
    """Check the length of an object before the object is read into memory.

    Raises:
        ObjectCorrupt: the object is larger than any object with such a key.
    """
    most = object_keys.bytes_max(key)
    if most is not None and stored_bytes > most:
        raise damaged_object_error(store, key)


def format_on_one_line(error: StoreError) -> str:
    """Format an error with all its parts on one line, for tables."""
    return "; ".join(line.strip() for line in str(error).splitlines())
