"""Choose the user of a QEMU process (invariant V1).

QEMU never runs as root, and each machine has a user of its own where possible.
"""

import os
import pwd
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgstore.domain.errors import InvalidInput

_FIRST_UID: Final = 1_900_000_000
"""The users of machines. The numbers have no names, like those of systemd's containers, and are above all usual ranges."""
_UIDS: Final = 100_000_000
_NOBODY: Final = 65_534
_UID_MAP: Final = Path("/proc/self/uid_map")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAs:
    """The user and group of a process."""

    uid: int
    gid: int


def choose_user(word: str | None, machine_uid: str) -> RunAs:
    """Return the user for the QEMU process of a machine.

    Args:
        word: a user by name or number. None chooses a user without a name for this machine, or nobody in a container
            without such users.
        machine_uid: the uid of the machine.

    Raises:
        InvalidInput: the process is not root and names no user or another user, or the user is root or unknown.
    """
    if os.geteuid() == 0:
        if word is None:
            uid = _FIRST_UID + zlib.crc32(machine_uid.encode()) % _UIDS
            return RunAs(uid=uid, gid=uid) if _is_mapped(uid) else RunAs(uid=_NOBODY, gid=_NOBODY)
        user = _find(word)
        if user.uid == 0:
            raise _user_error(
                "QEMU may not run as root.", found=word, hint="name a user without rights, or leave the option out"
            )
        return user
    own = RunAs(uid=os.geteuid(), gid=os.getegid())
    if word is None:
        raise _user_error(
            "A machine may break out of QEMU, so QEMU runs as another user than imgstore. Only root can start such a process.",
            found=f"user {own.uid}, and no --runas",
            hint="run imgstore as root; or, for guests that you trust, let QEMU run with your own rights: "
            f"--runas {_name(own.uid)}",
        )
    if _find(word) != own:
        raise _user_error(
            "Only root can start QEMU as another user.",
            found=word,
            hint=f"run imgstore as root, or name yourself: --runas {_name(own.uid)}",
        )
    return own


def _find(word: str) -> RunAs:
    try:
        entry = pwd.getpwuid(int(word)) if word.isdecimal() else pwd.getpwnam(word)
    except (KeyError, OverflowError) as error:
        if word.isdecimal() and int(word) < _NOBODY << 15:
            return RunAs(uid=int(word), gid=int(word))
        raise _user_error("The user for QEMU does not exist.", found=word, hint="name a user of this host") from error
    return RunAs(uid=entry.pw_uid, gid=entry.pw_gid)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_mapped(uid: int) -> bool:
    """Return whether the user namespace of this process has a user."""
    try:
        rows = [[int(word) for word in line.split()] for line in _UID_MAP.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return False
    return any(first <= uid < first + count for first, _, count in rows)


def _user_error(message: str, *, found: str, hint: str) -> InvalidInput:
    return InvalidInput(message, found=found, expected="a user without rights for QEMU", hint=hint, target="runas")
