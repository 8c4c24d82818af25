"""``imgstore catalog recovery-file``: the encrypted keys that a rebuild of the catalog needs."""

from pathlib import Path

import click

from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.passphrases import passphrase_file, read_passphrase
from imgstore.cli.framework.session import open_session
from imgstore.operations.recovery import recovery_file as operations
from imgstore.wire.responses.recovery import recovery_file_json

_TABLE = columns(
    Path="path",
    WrittenAt="writtenAt",
    Installation="installation",
    Pools="keys.pools",
    SigningKeys="keys.signingKeys",
    Current="current",
)


@click.command(
    "recovery-file",
    cls=Command,
    table=_TABLE,
    example="imgstore catalog recovery-file /media/usb/imgstore.recovery\n"
    "imgstore catalog recovery-file --check /media/usb/imgstore.recovery --passphrase-file passphrase.txt",
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Compare an existing file with the installation, and write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@passphrase_file()
def recovery_file(path: Path, passphrase_file: Path | None, *, check: bool, overwrite: bool) -> Answer:
    """Write the keys that a rebuild of the catalog needs to an encrypted file.

    The buckets never contain these keys: the HMAC key of the installation, the fingerprint keys of the pools, and the
    signing keys. The file also contains regions.yaml and the values of its variables. The file contains no credentials of
    stores.

    Store the file and its passphrase at two places outside of the home. Write the file again after a new gallery or a new
    signing key. `imgstore regions check` warns about newer keys.

    With --check the exit code is 1 if a key is missing from the file, or if regions.yaml or its variables have changed.
    """
    if check and overwrite:
        raise click.UsageError("--overwrite writes a file, and --check writes nothing.")
    passphrase = read_passphrase(passphrase_file, confirms=not check)
    with open_session(may_read_only=check) as session:
        if check:
            report = session.run(operations.check_recovery_file, path, passphrase=passphrase)
        else:
            report = session.run(operations.write_recovery_file, path, passphrase=passphrase, overwrite=overwrite)
        session.warn_of_home(path)
        if not report.is_current:
            session.warn(f"{path} is older than the installation: write a new file")
        return Answer(body=recovery_file_json(report), exit_code=0 if report.is_current else 1)
