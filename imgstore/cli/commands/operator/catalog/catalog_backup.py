"""``imgstore catalog backup``."""

from pathlib import Path

import click

from imgstore.cli.framework.command import Command
from imgstore.cli.framework.session import Session
from imgstore.operations.recovery.backup import backup_catalog
from imgstore.operations.recovery.backup_file import Backup
from imgstore.wire.json_text import Json


def _check_target(_context: click.Context, _parameter: click.Parameter, target: Path) -> Path:
    if str(target) == "-":
        raise click.UsageError("A backup is a file, because the command reads the written bytes again. Name a file.")
    return target


@click.command(
    cls=Command,
    example="imgstore catalog backup gallery.tar\nimgstore catalog backup /srv/backups -o table",
)
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE|FOLDER", callback=_check_target)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def backup(session: Session, target: Path, *, overwrite: bool) -> Json:
    """Write the catalog and the files of the home into one new file, while servers and workers run.

    The file is a tar archive with the database, regions.yaml, settings.toml, the certificates of the home and the received
    bytes of unfinished uploads. The stored segments stay in the buckets. A folder gets a file with a name from installation
    and time.

    The command checks the written file before the file appears. The file contains keys, so only its owner may read it.
    """
    report = session.run(backup_catalog, target, overwrite=overwrite)
    session.warn_of_home(report.backup.path)
    return {"file": str(report.backup.path), "fileBytes": report.file_bytes, **backup_json(report.backup)}


def backup_json(backup: Backup) -> dict[str, Json]:
    """Return the origin and the content of a backup as JSON."""
    description = backup.description
    return {
        "installation": description.installation,
        "createdAt": description.created_at.isoformat(),
        "engine": description.dump.engine,
        "revision": description.dump.revision,
        "sequence": description.sequence,
        "catalogBytes": backup.catalog.stored_bytes,
        "unfinishedUploads": len(backup.upload_uids),
        "files": [name for name, each in backup.members.items() if each.upload_uid is None],
        "digest": backup.digest,
    }
