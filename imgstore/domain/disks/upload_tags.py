"""Tags of a disk that receives an upload for an image version.

Azure's clients can set tags, and no other field that a server may define. The upload of such a disk is not ingested as a
disk. The bytes stay in the upload spool until a version is created from the disk (invariant S1).
"""

from collections.abc import Mapping
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.digests import DIGEST_BYTES, Digest
from imgstore.domain.tags import find_tag

UPLOAD_FOR: Final = "imgstore-upload-for"
"""The tag that keeps an upload for a version. The value is the id of the version, definition or gallery, or any word."""
UPLOAD_DIGEST: Final = "imgstore-upload-digest"
"""The tag with the expected disk digest in hexadecimal. A version from other bytes is refused."""
UPLOAD_MISMATCH: Final = "UploadMismatch"
"""The error code of a version whose uploaded bytes do not have the expected digest."""


def is_for_version(tags: Mapping[str, str]) -> bool:
    """Return whether the upload of a disk with these tags is kept for a version."""
    return find_tag(tags, UPLOAD_FOR) is not None


def describe_waiting_disk(tags: Mapping[str, str]) -> tuple[str, str]:
    """Return the state of a disk that waits for an upload, and the steps to a complete disk. Both are texts for errors."""
    if is_for_version(tags):
        return (
            f"a disk that keeps its upload for a version (tag {UPLOAD_FOR})",
            "repeat `imgstore disk create` with `--tags` without this tag, then run `imgstore disk revoke-access`",
        )
    return (
        "a disk that waits for an upload",
        "upload to the URL of `imgstore disk grant-access`, then run `imgstore disk revoke-access`",
    )


def destination_id(tags: Mapping[str, str]) -> str | None:
    """Return the resource id of the version, definition or gallery that an upload is for. None if the tag has no id."""
    value = find_tag(tags, UPLOAD_FOR)
    return value if value is not None and value.lower().startswith("/subscriptions/") else None


def expected_digest(tags: Mapping[str, str]) -> Digest | None:
    """Return the disk digest that the client expects, or None without the tag.

    Raises:
        InvalidInput: the value is no digest.
    """
    value = find_tag(tags, UPLOAD_DIGEST)
    if value is None:
        return None
    try:
        digest = bytes.fromhex(value)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise InvalidInput(
            f"The tag {UPLOAD_DIGEST} is not a disk digest.",
            found=repr(value),
            expected=f"{2 * DIGEST_BYTES} hexadecimal digits",
            hint="remove the tag, or set the value that `imgstore verify` prints",
            target=f"tags.{UPLOAD_DIGEST}",
        )
    return digest
