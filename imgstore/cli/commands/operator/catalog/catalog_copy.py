"""``imgstore catalog copy``."""

from shlex import quote

import click

from imgstore.catalog.recovery.row_copies import RowCopy
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import Rows, print_next_steps
from imgstore.cli.framework.session import Session
from imgstore.operations.recovery.copy import copy_catalog
from imgstore.operations.stores.first_start import DATABASE_FILE
from imgstore.wire.json_text import Json


def _table(body: Json) -> Rows:
    return [{"Table": each["table"], "Rows": each["rows"], "Changed": each["changed"]} for each in body["tables"]]


@click.command(
    cls=Command,
    table=_table,
    example="imgstore catalog copy --to postgresql://imgstore@db.example/imgstore -o table\n"
    "imgstore catalog copy --database postgresql://imgstore@db.example/imgstore --to sqlite:////srv/home/catalog.sqlite",
)
@click.option("--to", required=True, metavar="URL", help="An empty PostgreSQL database, or a new SQLite file.")
def copy(session: Session, to: str) -> Answer:
    """Copy the catalog into another database, and compare every row.

    The command moves an installation between SQLite and PostgreSQL. Stop servers and workers first. The copy is one
    snapshot, so changes during the copy are missing in the target. The command then names the changed tables, and the exit
    code is 1.

    The command prints the number of rows and the digest of each table, which are equal in both databases. An interrupted
    copy leaves no row. The present catalog stays unchanged, and the command prints the steps to use the new database.
    """
    copied = session.run(copy_catalog, to)
    steps = _next_steps(session, copied)
    print_next_steps(steps, quiet=session.quiet)
    tables = [
        {"table": name, "rows": each.rows, "digest": each.digest, "changed": name in copied.changed}
        for name, each in copied.tables.items()
    ]
    body = {
        "from": session.installation.catalog.place,
        "to": copied.place,
        "equal": True,
        "rows": sum(each.rows for each in copied.tables.values()),
        "tables": tables,
        "changedDuringCopy": list(copied.changed),
        "nextSteps": steps,
    }
    return Answer(body=body, exit_code=1 if copied.changed else 0)


def _next_steps(session: Session, copied: RowCopy) -> list[str]:
    if copied.changed:
        changed = ", ".join(copied.changed)
        return [
            f"other processes changed {changed}: stop all servers and workers, and copy into an empty database again"
        ]
    own = session.installation.home.absolute() / DATABASE_FILE
    if copied.place == str(own):
        return ["use the SQLite catalog in the home: unset IMGSTORE_DATABASE"]
    shown = copied.place if "://" in copied.place else f"sqlite:///{copied.place}"
    steps = [f"name the new database in each command: export IMGSTORE_DATABASE={quote(shown)}"]
    if session.installation.catalog.place == str(own):
        former, moved = quote(str(own)), quote(f"{own}.moved")
        steps.append(f"move the former catalog away, so that no command uses the file: mv {former} {moved}")
    return steps
