"""Hash passwords for guests in the format of crypt(3), which every Linux reads (SHA-512, "$6$")."""

from typing import Final

from imgstore.domain.errors import ToolMissing
from imgstore.domain.extras import install_hint

_ROUNDS: Final = 100_000
"""About 0.1 s of one core. The default of crypt(3) is 5,000."""


def hash_password(password: str) -> str:
    """Return the salted hash of a password.

    Raises:
        ToolMissing: the library libpass is not installed.
    """
    try:
        from passlib.hash import sha512_crypt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "The password of a machine's first user needs an optional package.",
            found=str(error),
            expected="the packages of the extra `machines`",
            hint=f"{install_hint('machines')}, or use an SSH key in place of the password",
            target=error.name,
        ) from error
    return str(sha512_crypt.using(rounds=_ROUNDS).hash(password))
