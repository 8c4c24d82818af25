"""Translation of the errors of SQLAlchemy, SQLite and PostgreSQL into the errors of imgstore.

SQLite reports result codes (https://www.sqlite.org/rescode.html). PostgreSQL reports SQLSTATEs
(https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from sqlalchemy import exc

from imgstore.domain.errors import (
    Conflict,
    ImgstoreError,
    InvalidInput,
    LostRace,
    ObjectCorrupt,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from imgstore.domain.host.os_errors import advise, advise_failed_io, describe, find_open_fault

# The low byte of an extended result code is its primary result code.
_SQLITE: Final[dict[int, type[StoreError]]] = {
    sqlite3.SQLITE_BUSY: StoreUnreachable,
    sqlite3.SQLITE_LOCKED: StoreUnreachable,
    sqlite3.SQLITE_IOERR: StoreUnreachable,
    sqlite3.SQLITE_PROTOCOL: StoreUnreachable,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_PERM: StoreDenied,
    sqlite3.SQLITE_READONLY: StoreDenied,
    sqlite3.SQLITE_CANTOPEN: StoreDenied,
    sqlite3.SQLITE_AUTH: StoreDenied,
    sqlite3.SQLITE_CORRUPT: ObjectCorrupt,
    sqlite3.SQLITE_NOTADB: ObjectCorrupt,
}

# Complete SQLSTATEs are looked up first, then classes of SQLSTATEs, which are the first two characters.
_POSTGRESQL: Final[dict[str, type[StoreError]]] = {
    "53100": StoreFull,  # disk_full
    "42501": StoreDenied,  # insufficient_privilege
    "25006": StoreDenied,  # read_only_sql_transaction
    "3D000": StoreDenied,  # invalid_catalog_name: no such database
    "55P03": StoreUnreachable,  # lock_not_available: the wait exceeded lock_timeout
    "08": StoreUnreachable,  # connection exceptions
    "40": StoreUnreachable,  # serialization failure, deadlock: a retry succeeds
    "53": StoreUnreachable,  # insufficient resources
    "57": StoreUnreachable,  # operator intervention: shutting down, starting up
    "28": StoreDenied,  # invalid authorization
    "XX": ObjectCorrupt,  # data_corrupted, index_corrupted
}

_ADVICE: Final[dict[type[StoreError], tuple[str, str]]] = {
    StoreUnreachable: (
        "a database that answers, and no long transactions",
        "check that the database runs and that no other process has a long transaction, then run the command again",
    ),
    StoreFull: ("free space on the disk of the database", "free some space there, then run the command again"),
    StoreDenied: (
        "a database that this user may open and write",
        "check the path or name of the database, its owner and permissions, and the user and the password of the address",
    ),
    ObjectCorrupt: (
        "an undamaged database",
        "stop all imgstore processes, keep a copy of the database, and restore it from a backup",
    ),
    StoreError: ("a statement that the database accepts", "run the command again with --debug and report the output"),
}

_Refusal: TypeAlias = tuple[type[StoreError | InvalidInput], str, str]
"""The class of an error, the expected state and the hint."""

# libpq has no SQLSTATE for a refused connection, and PgBouncer has a single one. Therefore the texts decide.
_CONNECTION_REFUSALS: Final[tuple[tuple[re.Pattern[str], _Refusal], ...]] = (
    (
        re.compile(r"unsupported startup parameter"),
        (
            InvalidInput,
            "parameters that the pooler passes on",
            "remove the parameter from the address, and use ALTER ROLE ... SET in the database instead",
        ),
    ),
    (
        re.compile(r"statement pooling mode"),
        (StoreDenied, "a pooler in transaction or session mode", "set pool_mode = transaction in the pooler"),
    ),
    (
        re.compile(
            r"invalid \S+ value|invalid integer|bad value for|definition of service|service file|not parse network"
            r"|unrecognized configuration parameter|requires a value|could not match \d+ "
            r"|weak sslmode|protocol version range"
        ),
        (InvalidInput, "values that libpq accepts", "correct the parameter in --database or IMGSTORE_DATABASE"),
    ),
    (
        re.compile(r"hot standby|session is (not )?read-only"),
        (
            StoreUnreachable,
            "a primary server",
            "check that one of the hosts of the address is the primary server, and check target_session_attrs",
        ),
    ),
    (
        re.compile(r"no more connections allowed|query_wait_timeout|too many c|connection slots"),
        (
            StoreUnreachable,
            "a free connection of the database or its pooler",
            "run fewer processes at once, or raise max_client_conn and default_pool_size of PgBouncer, or max_connections",
        ),
    ),
    (
        re.compile(r"does not support SSL|certificate|SSL (connection is )?required|channel binding required"),
        (
            StoreDenied,
            "TLS as both the address and the server require",
            "check sslmode and sslrootcert in the address, and the certificate of the server",
        ),
    ),
    (
        re.compile(
            r"(database|role) \".*\" does not exist|no such (database|user)|(password|auth)\w* .*failed|auth failed"
            r"|password supplied|pg_hba|not permitted|permission denied"
        ),
        (StoreDenied, *_ADVICE[StoreDenied]),
    ),
)


@contextmanager
def translate_errors(place: str) -> Iterator[None]:
    """Translate each error of SQLAlchemy or of a driver.

    Args:
        place: the address of the database without a password.

    Raises:
        LostRace: a unique row exists already.
        Conflict: other rows still refer to the row that was to be deleted.
        StoreUnreachable: the database does not answer, or a lock was not available in time.
        StoreFull: the disk of the database is full.
        StoreDenied: the database does not exist, or this user may not open or write the database.
        ObjectCorrupt: the file is damaged, or is not a database.
        InvalidInput: a parameter of the address of PostgreSQL is invalid.
        StoreError: the database refused for another reason.
    """
    try:
        yield
    except exc.IntegrityError as error:
        raise _conflict(error, place) from error
    except exc.TimeoutError as error:
        raise _store_error(StoreUnreachable, place, "every connection of this process is busy") from error
    except exc.DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error) and (fault := _find_host_fault(error.orig, place)) is not None:
            raise fault from error
        if (refusal := _find_refusal(error)) is not None:
            raise _open_error(refusal, place, _describe(error.orig)) from error
        kind = StoreUnreachable if error.connection_invalidated else _kind(error.orig)
        if error.statement is None:
            raise _open_error((kind, *_ADVICE[kind]), place, _describe(error.orig)) from error
        raise _store_error(kind, place, _describe(error.orig)) from error
    except exc.SQLAlchemyError as error:
        raise _store_error(StoreError, place, str(error)) from error
    except sqlite3.Error as error:  # from a copy of the whole file
        fault = _find_host_fault(error, place)
        raise fault or _store_error(_kind(error), place, _describe(error)) from error


def _find_refusal(error: exc.DBAPIError) -> _Refusal | None:
    """Return the reason for which PostgreSQL or a pooler refused a connection, or None for any other error."""
    by_pooler = getattr(error.orig, "sqlstate", None) == "08P01"
    if isinstance(error.orig, sqlite3.Error) or not (error.statement is None or by_pooler):
        return None
    text = str(error.orig)
    return next((refusal for pattern, refusal in _CONNECTION_REFUSALS if pattern.search(text)), None)


def _find_host_fault(error: sqlite3.Error, place: str) -> StoreError | None:
    """Return the fault of the machine for which SQLite could not open, read or write its files, if it is known."""
    kind: type[StoreError]
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_CANTOPEN and (fault := find_open_fault(place)) is not None:
        kind = StoreDenied if fault.errno == errno.EISDIR else StoreUnreachable
        expected, found, hint = "a file, and free file descriptors", describe(fault), advise(fault, place)
    elif code == sqlite3.SQLITE_IOERR:
        kind, expected, found = StoreUnreachable, "a disk without errors and with free space", _describe(error)
        hint = advise_failed_io(place)
    else:
        return None
    return kind(
        f"The files of the catalog in {place} cannot be used.",
        found=found,
        expected=expected,
        hint=f"{hint}, then run the command again",
        target=place,
    )


def _open_error(refusal: _Refusal, place: str, found: str) -> ImgstoreError:
    kind, expected, hint = refusal
    return kind(f"The catalog in {place} cannot be opened.", found=found, expected=expected, hint=hint, target=place)


def _kind(error: BaseException | None) -> type[StoreError]:
    if isinstance(error, sqlite3.Error):
        return _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, StoreError)
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:
        # psycopg reports no SQLSTATE if no server answered. It has a class of its own for a server that is silent.
        names = {each.__name__ for each in type(error).__mro__}
        return StoreUnreachable if "OperationalError" in names else StoreError
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2], StoreError)


def _store_error(kind: type[StoreError], place: str, found: str) -> StoreError:
    expected, hint = _ADVICE[kind]
    return kind(f"The catalog in {place} refused a statement.", found=found, expected=expected, hint=hint, target=place)


def _conflict(error: exc.IntegrityError, place: str) -> ImgstoreError:
    if _is_unique(error.orig):
        return LostRace(
            "A resource of this name exists already.",
            found=_describe(error.orig),
            expected="a name that is not in use",
            hint="show the existing resource, then run the command again",
            target=place,
        )
    if _is_reference(error.orig):
        return Conflict(
            "Another resource still refers to this resource, or a resource that this resource needs was deleted.",
            found=_describe(error.orig),
            expected="no resource inside this resource, and an existing parent",
            hint="list the resources inside, then run the command again",
            target=place,
        )
    return _store_error(StoreError, place, _describe(error.orig))


def _is_unique(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return error.sqlite_errorcode in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
    return getattr(error, "sqlstate", None) == "23505"


def _is_reference(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
    return getattr(error, "sqlstate", None) in ("23503", "23001")


def _describe(error: BaseException | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__
