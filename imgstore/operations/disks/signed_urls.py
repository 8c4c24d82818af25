"""Grant signed URLs for disks, and check the signed URL of a request."""

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote, urlencode

from imgstore.domain import names
from imgstore.domain.disks.signed_urls import SECONDS_MAX, AccessLevel, DiskGrant, format_expiry
from imgstore.domain.disks.upload_tags import describe_waiting_disk
from imgstore.domain.errors import AccessDenied, Conflict, InvalidInput, NotFound
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.slots.removal import OPERATION_NOT_ALLOWED, signed_url_conflict

URL_ROOT: Final = "/blobs"
"""The prefix of the paths of signed URLs."""
_INVALID_SIGNATURE: Final = "an invalid signature: of no disk, altered, revoked or expired"
"""The same answer in all cases, so that clients cannot learn which disks exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedUrlClaims:
    """The unverified fields of a signed URL."""

    disk_uid: str
    grant_uid: str
    expires_at: str
    signature: str


def grant_access(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    level: AccessLevel,
    duration_seconds: int,
    server_url: str,
) -> str:
    """Grant access to a disk, and return the signed URL.

    The disk cannot be deleted until the grant expires or is revoked (`uploads.revoke_access`). A second grant with the
    same level keeps earlier URLs valid until the expiry of each URL.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the disk.
        level: Read for a complete disk, Write for a disk that waits for an upload.
        duration_seconds: the validity of the URL.
        server_url: the scheme, host and port of the server for clients.

    Raises:
        Conflict: the disk does not allow the level, or a grant with the other level is valid.
        InvalidInput: the duration is out of range.
    """
    if not 1 <= duration_seconds <= SECONDS_MAX:
        raise InvalidInput(
            f"The value {duration_seconds} of parameter durationInSeconds is out of range. The value must be between 1 "
            f"and {SECONDS_MAX}, inclusive",
            found=f"{duration_seconds} seconds",
            expected=f"1 to {SECONDS_MAX}",
            hint="request a new URL after the expiry",
            target="durationInSeconds",
        )
    scope = names.disk_id(installation.subscription, group, name)
    with record_activity(installation, principal, Action.EXPORT, scope):
        with installation.catalog.transaction() as transaction:
            disk = lookup.find_disk(transaction, installation.subscription, group, name)
            _check_level(disk, level)
            now = transaction.now().replace(microsecond=0)
            standing = disk.active_grant(now)
            _check_free(disk, standing, level)
            ends = _grant_end(now, duration_seconds)
            grant = DiskGrant(
                uid=standing.uid if standing else installation.effects.new_uid(),
                level=level,
                expires_at=max(ends, standing.expires_at) if standing else ends,
            )
            if not transaction.disks.set_grant(disk, grant):
                raise _disk_changed(disk)
            key = transaction.installation.hmac_key()
        signed = {
            "sv": "2021-12-02",
            "sr": "b",
            "sp": "r" if level is AccessLevel.READ else "rw",
            "si": grant.uid,
            "se": format_expiry(ends),
            "sig": grant.signature(key, disk.uid, ends),
        }
        return f"{server_url}{URL_ROOT}/{disk.uid}/{quote(disk.name)}.vhd?{urlencode(signed)}"


def _disk_changed(disk: ManagedDisk) -> Conflict:
    return Conflict(
        f"The disk '{disk.name}' has just changed.",
        found=f"a disk that is not in state {disk.provisioning_state} any more",
        hint="show the disk and repeat the request",
        target=disk.name,
    )


def _grant_end(now: datetime, duration_seconds: int) -> datetime:
    """Return the expiry in whole seconds, as in the URL. One second is added, because `now` was rounded down."""
    return now + timedelta(seconds=duration_seconds + 1)


def _check_level(disk: ManagedDisk, level: AccessLevel) -> None:
    if disk.awaits_upload and level is AccessLevel.WRITE:
        return
    if level is AccessLevel.READ and disk.provisioning_state is ProvisioningState.SUCCEEDED:
        return
    found, hint = f"a disk in state {disk.provisioning_state}", "create a disk with createOption Upload"
    if disk.awaits_upload:
        found, hint = describe_waiting_disk(disk.tags)
    raise Conflict(
        f"Access level {level} is not allowed for the disk '{disk.name}'.",
        found=found,
        expected="Write for a disk that waits for an upload, Read for a disk in state Succeeded",
        hint=hint,
        target="access",
        code=OPERATION_NOT_ALLOWED,
    )


def _check_free(disk: ManagedDisk, standing: DiskGrant | None, level: AccessLevel) -> None:
    if standing is not None and standing.level is not level:
        raise signed_url_conflict(disk, standing)


def authorize_signed_url(installation: Installation, ticket: SignedUrlClaims, *, write: bool) -> ManagedDisk:
    """Verify a signed URL for reading or writing, and return the disk.

    Raises:
        AccessDenied: the URL is forged, expired or revoked, or permits only reading.
    """
    with installation.catalog.reading() as transaction:
        key, now = transaction.installation.hmac_key(), transaction.now()
        try:
            disk = transaction.disks.by_uid(ticket.disk_uid)
        except NotFound:
            raise _access_denied(_INVALID_SIGNATURE) from None
    grant = None if disk.provisioning_state is ProvisioningState.DELETING else disk.active_grant(now)
    if grant is None or not hmac.compare_digest(grant.uid.encode(), ticket.grant_uid.encode()):
        raise _access_denied(_INVALID_SIGNATURE)
    try:
        ends = datetime.strptime(ticket.expires_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _access_denied(_INVALID_SIGNATURE) from None
    if not hmac.compare_digest(grant.signature(key, disk.uid, ends).encode(), ticket.signature.encode()):
        raise _access_denied(_INVALID_SIGNATURE)
    if now >= ends:
        raise _access_denied("an expired signature")
    if write and grant.level is not AccessLevel.WRITE:
        raise _access_denied("a signature for reading", "AuthorizationPermissionMismatch")
    return disk


def _access_denied(found: str, code: str = "AuthenticationFailed") -> AccessDenied:
    return AccessDenied(
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
        "including the signature.",
        found=found,
        expected="an unexpired URL from beginGetAccess",
        hint="create a new URL with `imgstore disk grant-access`",
        code=code,
    )
