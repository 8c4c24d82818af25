"""Keep the secrets of an OS profile, and make the seed of a machine's first start (invariants D11 and V4)."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.machines import Machine, MachineSecrets
from imgstore.hypervisor.passwords import hash_password
from imgstore.hypervisor.seed import Seed

CUSTOM_DATA_BYTES_MAX: Final = 65_535
_PROFILE: Final = "properties.osProfile"


def make_secrets(password: str | None, custom_data: bytes | None) -> MachineSecrets:
    """Return the stored form of the secrets of an OS profile. The plain password is not stored.

    Raises:
        InvalidInput: the custom data are too large.
        ToolMissing: the library for hashes of passwords is not installed.
    """
    if custom_data is not None and len(custom_data) > CUSTOM_DATA_BYTES_MAX:
        raise InvalidInput(
            "The custom data are too large.",
            found=f"{len(custom_data)} bytes",
            expected=f"at most {CUSTOM_DATA_BYTES_MAX} bytes (Azure's limit)",
            hint="let the custom data download the rest",
            target="properties.osProfile.customData",
        )
    return MachineSecrets(
        password_hash=None if password is None else hash_password(password),
        custom_data=None if custom_data is None else base64.b64encode(custom_data).decode("ascii"),
    )


def make_seed(machine: Machine, secrets: MachineSecrets) -> Seed | None:
    """Return the seed of a machine from a generalized image. None for a machine from a specialized image or disk.

    A specialized image has users and a host name of its own.
    """
    if machine.admin_username is None:
        return None
    return Seed(
        instance_id=machine.uid,
        host_name=machine.computer_name or machine.name,
        user=machine.admin_username,
        ssh_keys=_ssh_keys(machine.extra_properties),
        password_hash=secrets.password_hash,
        custom_data=None if secrets.custom_data is None else base64.b64decode(secrets.custom_data),
    )


def _ssh_keys(kept: Mapping[str, Any]) -> Sequence[str]:
    """Return the public keys of the OS profile, in the form of Azure's API."""
    ssh = kept.get(_PROFILE, {}).get("linuxConfiguration", {}).get("ssh", {})
    return [each["keyData"] for each in ssh.get("publicKeys", ()) if isinstance(each.get("keyData"), str)]
