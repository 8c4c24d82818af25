"""Write and check the recovery file: the keys that a rebuild of the catalog needs and no bucket may hold (K1 to K3)."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import InvalidInput, SourceNotFound
from imgstore.domain.host.os_errors import advise, describe
from imgstore.domain.host.private_files import FILE_MODE
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.recovery import RecoveryFileReport
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.recovery.recovery_keys import (
    RecoveryKeys,
    decode_recovery_keys,
    read_keys,
)
from imgstore.operations.recovery.sealed_file import FILE_BYTES_MAX, damaged_error, seal, unseal
from imgstore.regions.regions_file import read_regions_document

_WHAT: Final = "imgstore/recoveryFile/write"


def write_recovery_file(
    installation: Installation, principal: Principal, path: Path, *, passphrase: str, overwrite: bool = False
) -> RecoveryFileReport:
    """Write all keys of the installation to an encrypted file with mode 0600, and remember the keys in the catalog.

    The file appears completely or not at all.

    Raises:
        InvalidInput: the passphrase is too short.
        OutputError: the file cannot be written, or exists and `overwrite` is not set.
        AccessDenied: the principal is no administrator of the installation.
    """
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, _WHAT, about=str(path)):
        with installation.catalog.reading() as transaction:
            keys = read_present_keys(installation, transaction)
        data = seal(keys.encode(), passphrase, installation.effects)
        pending = PendingFile(path, overwrite=overwrite, read_soon=True, mode=FILE_MODE, effects=installation.effects)
        try:
            pending.write(data, 0)
            file_bytes = pending.publish()
        finally:
            pending.discard()
        with installation.catalog.transaction() as transaction:
            transaction.recovery_keys.replace(keys.ids, keys.written_at)
        return _report(path, keys, file_bytes)


def check_recovery_file(
    installation: Installation, principal: Principal, path: Path, *, passphrase: str
) -> RecoveryFileReport:
    """Decrypt a recovery file and compare the file with the installation.

    Raises:
        InvalidInput: the file cannot be read, is damaged, belongs to another installation, or has another passphrase.
        AccessDenied: the principal is no administrator of the installation.
    """
    authorize(principal, Action.ADMINISTER, INSTALLATION)
    keys, file_bytes = read_recovery_file(path, passphrase)
    with installation.catalog.reading() as transaction:
        present = read_present_keys(installation, transaction)
    check_same_installation(keys, present, path)
    names = {*keys.variables, *present.variables}
    changed = sorted(name for name in names if keys.variables.get(name) != present.variables.get(name))
    if keys.regions_document != present.regions_document:
        changed.insert(0, "regions.yaml")
    return replace(
        _report(path, keys, file_bytes),
        missing=sorted(present.ids - keys.ids),
        changed_settings=changed,
    )


def read_recovery_file(path: Path, passphrase: str) -> tuple[RecoveryKeys, int]:
    """Read and decrypt a recovery file.

    Returns:
        The keys, and the length of the file in bytes.

    Raises:
        InvalidInput: the file cannot be read or is damaged, or the passphrase is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SourceNotFound(
            f"The recovery file {path} cannot be read.",
            found=describe(error, path),
            expected="a file of `imgstore catalog recovery-file`",
            hint=advise(error, path),
            target=str(path),
        ) from error
    if len(data) > FILE_BYTES_MAX:
        raise damaged_error(str(path), f"more than {FILE_BYTES_MAX} bytes")
    try:
        return decode_recovery_keys(unseal(data, passphrase, str(path))), len(data)
    except ValueError as error:
        raise damaged_error(str(path), str(error)) from error


def read_present_keys(installation: Installation, transaction: Transaction) -> RecoveryKeys:
    """Return the keys and the settings of the installation as of now."""
    document, variables = read_regions_document(installation.regions, installation.environ)
    return read_keys(
        transaction, regions_document=document, variables=variables, home=str(installation.home.absolute())
    )


def _report(path: Path, keys: RecoveryKeys, file_bytes: int) -> RecoveryFileReport:
    return RecoveryFileReport(
        path=path,
        file_bytes=file_bytes,
        written_at=keys.written_at,
        installation_uid=keys.installation_uid,
        pools=len(keys.pools),
        signing_keys=len(keys.signing_keys),
        ledger_keys=len(keys.ledger_keys),
        variables=tuple(keys.variables),
    )


def check_same_installation(keys: RecoveryKeys, present: RecoveryKeys, path: Path | str) -> None:
    """Refuse the file of another installation, or of a catalog that was reset under the same uid.

    Raises:
        InvalidInput: the keys differ.
    """
    pools = {pool.uid: pool.fingerprint_key for pool in present.pools}
    others = [pool.uid for pool in keys.pools if pools.get(pool.uid, pool.fingerprint_key) != pool.fingerprint_key]
    if keys.installation_uid != present.installation_uid:
        found = f"the keys of installation {keys.installation_uid}"
    elif keys.hmac_key != present.hmac_key:
        found = "another HMAC key of the same installation"
    elif others:
        found = f"another key of pool {others[0]}"
    else:
        return
    raise InvalidInput(
        f"The recovery file {path} does not belong to this installation.",
        found=found,
        expected=f"the keys of installation {present.installation_uid}",
        hint="name the recovery file of this installation, or the home of the other installation with --home",
        target=str(path),
        code="RecoveryFileMismatch",
    )
