"""Sign the URL of a machine's console log, and check the signed URL of a request (Azure's boot diagnostics)."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from imgstore.domain import names
from imgstore.domain.disks.signed_urls import format_expiry
from imgstore.domain.errors import AccessDenied, InvalidInput, NotFound
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.machines import MACHINE
from imgstore.hypervisor.console_log import read_console
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation
from imgstore.operations.machines.runs import machine_folder

CONSOLE_ROOT: Final = "/consoles"
"""The prefix of the paths of signed URLs."""
MINUTES_MAX: Final = 1440
"""Azure's limit for the validity of a URL."""


def sign_console_url(
    installation: Installation, principal: Principal, *, group: str, name: str, minutes: int, server_url: str
) -> str:
    """Return a URL from which anyone may read the console log of a machine until the URL expires.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the machine.
        minutes: the validity of the URL.
        server_url: the scheme, host and port of the server for clients.

    Raises:
        InvalidInput: the validity is out of range.
    """
    if not 1 <= minutes <= MINUTES_MAX:
        raise InvalidInput(
            "The value of parameter sasUriExpirationTimeInMinutes is out of range.",
            found=f"{minutes} minutes",
            expected=f"1 to {MINUTES_MAX}",
            hint="request a new URL after the expiry",
            target="sasUriExpirationTimeInMinutes",
        )
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    permit(installation, principal, Action.BOOT_DIAGNOSTICS, scope)
    with installation.catalog.reading() as transaction:
        machine = lookup.find_machine(transaction, installation.subscription, group, name)
        key, now = transaction.installation.hmac_key(), transaction.now()
    ends = format_expiry(now + timedelta(minutes=minutes))
    query = urlencode({"se": ends, "sp": "r", "sig": _sign(key, machine.uid, ends)})
    return f"{server_url}{CONSOLE_ROOT}/{machine.uid}/serialconsole.log?{query}"


def read_signed_console(installation: Installation, machine_uid: str, ends: str, signature: str) -> bytes:
    """Return the console log of a machine on this host. A machine that never started here has an empty log.

    Raises:
        AccessDenied: the URL is forged or expired.
    """
    with installation.catalog.reading() as transaction:
        key, now = transaction.installation.hmac_key(), transaction.now()
        is_signed = hmac.compare_digest(_sign(key, machine_uid, ends).encode(), signature.encode())
        if not is_signed or now >= datetime.strptime(ends, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC):
            raise _access_denied("an expired signature" if is_signed else "an invalid signature")
        try:
            machine = transaction.machines.by_uid(machine_uid)
        except NotFound:
            raise _access_denied("an invalid signature") from None
    return read_console(machine_folder(installation, machine.uid))


def _sign(key: bytes, machine_uid: str, ends: str) -> str:
    message = f"imgstore console 1\n{machine_uid}\n{ends}"
    return hmac.new(key, message.encode(), hashlib.sha256).hexdigest()


def _access_denied(found: str) -> AccessDenied:
    return AccessDenied(
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
        "including the signature.",
        found=found,
        expected="an unexpired URL from retrieveBootDiagnosticsData",
        hint="request a new URL",
        code="AuthenticationFailed",
    )
