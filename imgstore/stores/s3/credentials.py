"""Credentials for S3: remove what is no part of a key, and explain why a store refuses a request.

Keys come from Kubernetes secrets, `.env` files of Windows and copied text. Such a key often ends in a line end or a
space, or begins with a byte order mark.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from botocore.credentials import Credentials

from imgstore.domain.errors import StoreDenied
from imgstore.domain.host.environment import strip_value
from imgstore.stores.access import CLOCK_SKEW_MAX

ACCESS_KEY: Final = "AWS_ACCESS_KEY_ID"
SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a variable
SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105 - the name of a variable

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029\ufeff]")
_NOT_IN_HEADER: Final = re.compile(r"[^\x20-\x7e]")
_FROM_CHAIN: Final = ((ACCESS_KEY, "access_key"), (SECRET_KEY, "secret_key"), (SESSION_TOKEN, "token"))


def clean_key(name: str, value: str | None) -> str | None:
    """Return a key without surrounding spaces, line ends and byte order marks.

    Args:
        name: The variable of the key. Only the secret key may contain characters that no HTTP header can contain.
        value: The key, or None.

    Raises:
        StoreDenied: The key contains a line end or another control character. The error does not contain the key.
    """
    if value is None:
        return None
    key = strip_value(value)
    wrong = (_CONTROL if name == SECRET_KEY else _NOT_IN_HEADER).search(key)
    if wrong is not None:
        what = "a line end" if wrong[0] in "\r\n" else f"the character U+{ord(wrong[0]):04X}"
        raise StoreDenied(
            f"{name} contains {what}.",
            found=f"{what} after {wrong.start()} characters",
            expected="a key of printable characters on one line",
            hint=f"set {name}, or the entry of the AWS profile, to the key alone: perhaps two keys, or a whole file, are in "
            "the value",
            target=name,
        )
    return key


def clean_credentials(credentials: object) -> None:
    """Clean the credentials that botocore found in the environment or in a file. Credentials with an expiry stay.

    Raises:
        StoreDenied: A key contains a control character.
    """
    if type(credentials) is Credentials:
        for name, attribute in _FROM_CHAIN:
            setattr(credentials, attribute, clean_key(name, getattr(credentials, attribute)))


def clock_skew(headers: Mapping[str, Any], now: datetime) -> timedelta | None:
    """Return the time of this machine minus the time of a store, from the Date header. None without such a header."""
    try:
        stated = parsedate_to_datetime(str(headers.get("date", "")))
    except ValueError:
        return None
    return now - (stated if stated.tzinfo else stated.replace(tzinfo=UTC))


def denied_error(store: str, key: str | None, code: str, found: str, skew: timedelta | None) -> StoreDenied:
    """Create the error for a refused request. `skew` is the difference of the clocks, if known."""
    if code == "RequestTimeTooSkewed" or (skew is not None and abs(skew) > CLOCK_SKEW_MAX):
        return _skewed_error(store, key, found, skew)
    expected, hint = _ADVICE.get(code, _UNKNOWN)
    what = "access" if code == "AccessDenied" else "the credentials"
    return StoreDenied(f"{store} refuses {what}.", found=found, expected=expected, hint=hint, target=key)


def config_error(found: str) -> StoreDenied:
    """Create the error for a file of the AWS configuration that botocore cannot read."""
    return StoreDenied(
        "A file of the AWS configuration cannot be read.",
        found=found,
        expected="a file with sections such as [default], in UTF-8 without a byte order mark",
        hint=r"correct the file; `sed -i '1s/^\xEF\xBB\xBF//' FILE` removes a byte order mark",
    )


def profile_error(found: str) -> StoreDenied:
    """Create the error for a profile that no file of the AWS configuration contains."""
    return StoreDenied(
        "The AWS profile does not exist.",
        found=found,
        expected="a profile in ~/.aws/credentials or ~/.aws/config",
        hint="correct profile in regions.yaml or AWS_PROFILE, or add the profile to one of these files. The variables "
        "AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE name other files",
    )


def _skewed_error(store: str, key: str | None, found: str, skew: timedelta | None) -> StoreDenied:
    if skew is None or abs(skew) <= CLOCK_SKEW_MAX:  # A proxy may write its own Date header.
        difference = "more than 15 minutes apart"
    else:
        minutes, seconds = divmod(round(abs(skew.total_seconds())), 60)
        difference = f"{minutes} min {seconds} s {'ahead of' if skew > timedelta() else 'behind'} the store's clock"
    return StoreDenied(
        f"The clocks of this machine and of {store} differ too much.",
        found=f"the clock of this machine is {difference}; {found}",
        expected="clocks that differ by at most 15 minutes, because each request is signed with the time",
        hint="correct the clock that is wrong, for example with an NTP service (`timedatectl set-ntp true`)",
        target=key,
    )


_UNKNOWN: Final = (
    "credentials that may read and write the bucket",
    f"set {ACCESS_KEY} and {SECRET_KEY}, or name an AWS profile in regions.yaml; the owner of the bucket grants its rights",
)
_TOKEN: Final = (
    "the session token of the access key",
    f"set {SESSION_TOKEN} of the same temporary credentials, or unset {SESSION_TOKEN} for a lasting key",
)
_ADVICE: Final = {
    "InvalidAccessKeyId": (
        "an access key that the store knows",
        f"correct {ACCESS_KEY}, the AWS profile, or the endpoint in regions.yaml: this store has no such access key",
    ),
    "SignatureDoesNotMatch": (
        "the secret key of the access key",
        f"correct {SECRET_KEY}, which does not belong to {ACCESS_KEY}",
    ),
    "ExpiredToken": (
        "temporary credentials that have not expired",
        f"request new temporary credentials, and set all three of {ACCESS_KEY}, {SECRET_KEY} and {SESSION_TOKEN}",
    ),
    "InvalidToken": _TOKEN,
    "InvalidTokenId": _TOKEN,
    "AccessDenied": (
        "an access key with the rights to list, read, write and delete objects of the bucket",
        "the credentials are valid: the owner of the bucket grants the missing right to the access key",
    ),
}
