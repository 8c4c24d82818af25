"""The file of a backup: a tar archive (POSIX pax) that GNU tar also extracts.

Members, in this order::

    settings.toml, regions.yaml, tls/<name>      the files of the home
    uploads/<disk uid>/journal                   the journal of an unfinished upload, without a seal
    uploads/<disk uid>/data                      its received bytes, as a sparse member (pax format 1.0)
    catalog.sqlite or catalog.pgdump             the catalog
    MANIFEST.json                                format version, installation, engine, revision, and the other members
    DIGEST                                       the BLAKE3 of all bytes before this member, in hexadecimal digits, and
                                                 offset and length of the manifest

Each member in the manifest has the BLAKE3 of its stored bytes, so a damaged member is named. The sparse format:
https://www.gnu.org/software/tar/manual/html_node/PAX-1.html
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import IO, Any, Final

from blake3 import blake3

from imgstore.catalog.recovery.catalog_dumps import DumpDescription, Engine
from imgstore.domain.errors import InvalidInput, ObjectCorrupt
from imgstore.domain.host.os_errors import advise, describe
from imgstore.domain.host.private_files import FILE_MODE
from imgstore.domain.progress import Subscriber, ignore_event
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.text.strict_json import read_json
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.operations.recovery.byte_progress import ByteProgress
from imgstore.transfer.spool_journal import DATA_FILE, JOURNAL_FILE

FORMAT: Final = "imgstore catalog backup"
FORMAT_VERSION: Final = 1
MANIFEST: Final = "MANIFEST.json"
DIGEST: Final = "DIGEST"
CATALOG_FILES: Final[Mapping[Engine, str]] = {
    Engine.SQLITE: "catalog.sqlite",
    Engine.POSTGRESQL: "catalog.pgdump",
}
_HOME_FILE: Final = re.compile(r"settings\.toml|regions\.yaml|tls/[A-Za-z0-9][A-Za-z0-9._-]*")
_UPLOAD_FILE: Final = re.compile(r"uploads/(?P<uid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(?P<file>data|journal)")
_MANIFEST_BYTES_MAX: Final = 1024 * MIB
_TAIL_BYTES: Final = 2 * tarfile.RECORDSIZE
"""The last member begins at most this far before the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupDescription:
    """The origin of a backup."""

    imgstore: str
    """The version of imgstore that wrote the backup."""
    installation: str
    """The uid of the installation."""
    created_at: datetime
    sequence: int
    """The number of the last checkpoint of the catalog when the backup began."""
    dump: DumpDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A part of a backup."""

    name: str
    blake3: str
    """The BLAKE3 of the stored bytes, in hexadecimal digits."""
    file_bytes: int
    """The length of the file."""
    extents: tuple[tuple[int, int], ...] | None = None
    """The ranges with data of a sparse file, as offset and length. None for a file without holes."""
    offset: int = 0
    """The offset of the stored bytes in the archive."""

    @property
    def stored_bytes(self) -> int:
        """The number of stored bytes."""
        return self.file_bytes if self.extents is None else sum(length for _, length in self.extents)

    @property
    def upload_uid(self) -> str | None:
        """The uid of the disk of an upload. None for other members."""
        found = _UPLOAD_FILE.fullmatch(self.name)
        return None if found is None else found["uid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup whose digests were checked."""

    path: Path
    digest: str
    """The BLAKE3 of all bytes before the member DIGEST."""
    description: BackupDescription
    members: Mapping[str, Member]

    @property
    def catalog(self) -> Member:
        """The dump of the catalog."""
        return self.members[CATALOG_FILES[self.description.dump.engine]]

    @property
    def upload_uids(self) -> Sequence[str]:
        """The uids of the disks with an unfinished upload."""
        return sorted({uid for each in self.members.values() if (uid := each.upload_uid) is not None})

    def read(self, member: Member) -> Iterator[bytes]:
        """Yield the stored bytes of a member.

        Raises:
            OSError: the file cannot be read.
        """
        with self.path.open("rb") as stream:
            stream.seek(member.offset)
            yield from _read_exactly(stream, member.stored_bytes)


class BackupWriter:
    """Writes the members of a backup one after another, and then the manifest."""

    def __init__(self, pending: PendingFile) -> None:
        self._stream: Final = io.BufferedWriter(_PendingStream(pending), MIB)
        self._archive: Final = tarfile.open(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._pending: Final = pending
        self._members: Final = list[dict[str, Any]]()

    def add(self, name: str, file_bytes: int, parts: Iterable[bytes]) -> None:
        """Add a file without holes."""
        self._add(name, file_bytes, parts)
        self._members[-1]["fileBytes"] = file_bytes

    def add_sparse(
        self, name: str, file_bytes: int, extents: Sequence[tuple[int, int]], parts: Iterable[bytes]
    ) -> None:
        """Add a file with holes. `parts` are the bytes of the extents."""
        # The length of the file is the last entry, because a reader may end the file with the last extent.
        entries = [*extents, (file_bytes, 0)]
        numbers = [len(entries), *(number for entry in entries for number in entry)]
        table = "".join(f"{each}\n" for each in numbers).encode()
        table = table.ljust(-(-len(table) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, b"\0")
        headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": name,
            "GNU.sparse.realsize": str(file_bytes),
        }
        self._add(name, sum(length for _, length in extents), parts, table, headers)
        self._members[-1] |= {"fileBytes": file_bytes, "extents": [list(each) for each in extents]}

    def _add(
        self,
        name: str,
        stored_bytes: int,
        parts: Iterable[bytes],
        table: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.pax_headers = len(table) + stored_bytes, FILE_MODE, dict(headers or {})
        hasher = blake3()
        self._archive.addfile(info, _Parts(table, parts, hasher.update))
        # The archive ends with the padded bytes of this member.
        padded = -(-stored_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        offset = self._archive.offset - padded
        self._members.append({"name": name, "blake3": hasher.hexdigest(), "offset": offset})

    def end(self, description: BackupDescription) -> None:
        """Write the manifest and the digest."""
        dump = description.dump
        document = {
            "format": FORMAT,
            "formatVersion": FORMAT_VERSION,
            "imgstore": description.imgstore,
            "installation": description.installation,
            "createdAt": description.created_at.isoformat(),
            "sequence": description.sequence,
            "engine": dump.engine.value,
            "revision": dump.revision,
            "oldestCode": dump.oldest_code,
            "schema": dump.schema,
            "programMajor": dump.program_major,
            "members": list(self._members),
        }
        text = json.dumps(document, indent=1).encode()
        self._add(MANIFEST, len(text), [text])
        self._stream.flush()
        words = f"{hash_first_bytes(self._pending.fd, self._archive.offset)} {self._members[-1]['offset']} {len(text)}\n".encode()
        self._add(DIGEST, len(words), [words])
        self._archive.close()
        self._stream.flush()


def upload_member(disk_uid: str, file: str) -> str:
    """Return the name of a file of an upload in a backup."""
    return f"uploads/{disk_uid}/{file}"


def is_known_member(name: str) -> bool:
    """Return whether a backup may have a member of this name. Other names are not extracted."""
    return bool(_HOME_FILE.fullmatch(name) or _UPLOAD_FILE.fullmatch(name) or name in CATALOG_FILES.values())


def open_backup(path: Path, subscriber: Subscriber = ignore_event) -> Backup:
    """Read a backup, and check every byte.

    Args:
        path: the file.
        subscriber: gets the progress.

    Raises:
        InvalidInput: the file cannot be read, or is no backup, or has a format that this code does not know.
        ObjectCorrupt: the file is incomplete or damaged.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            progress = ByteProgress(subscriber, "check of the backup", os.fstat(stream.fileno()).st_size)
            backup = _check(path, stream, progress.add)
            progress.end()
            return backup
    except OSError as error:
        raise InvalidInput(
            f"The backup {path} cannot be read.",
            found=describe(error, path),
            expected="a file that `imgstore catalog backup` wrote",
            hint=advise(error, path),
            target=str(path),
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, and never wait for the writer of a pipe. A pipe cannot be read twice, and is refused later."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _check(path: Path, stream: IO[bytes], report: Callable[[int], None]) -> Backup:
    found = _find_digest(stream)
    if found is None:
        if _begins_as_backup(stream):
            raise _damaged_error(path, f"no {DIGEST} at the end, so the file is incomplete")
        raise _no_backup_error(path, "a file without a digest at the end")
    place, expected, manifest = found
    digest = hash_first_bytes(stream.fileno(), place, report)
    if digest != expected:
        damaged = ", ".join(_find_damaged(stream, manifest, place)) or "the archive"
        raise _damaged_error(path, f"wrong bytes in {damaged}")
    document = _read_document(path, stream, manifest, place)
    try:
        members = {each.name: each for each in _members(document, place)}
        description = BackupDescription(
            imgstore=str(document["imgstore"]),
            installation=str(document["installation"]),
            created_at=datetime.fromisoformat(document["createdAt"]),
            sequence=int(document["sequence"]),
            dump=_read_dump(document),
        )
        backup = Backup(path=path, digest=digest, description=description, members=members)
        # Each unfinished upload needs both files.
        _ = [
            backup.catalog,
            *(members[upload_member(uid, file)] for uid in backup.upload_uids for file in (DATA_FILE, JOURNAL_FILE)),
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged_error(path, f"an invalid {MANIFEST}: {type(error).__name__} {error}") from error
    return backup


def _find_digest(stream: IO[bytes]) -> tuple[int, str, tuple[int, int]] | None:
    """Find the last member by its header.

    `tarfile` reads the length of a sparse member above 8 GiB wrongly, so the manifest has the offsets of all members.

    Returns:
        The offset of the header, the digest, and offset and length of the manifest. None if there is no such member.
    """
    end = stream.seek(0, os.SEEK_END) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    for place in range(end - tarfile.BLOCKSIZE, max(-1, end - _TAIL_BYTES), -tarfile.BLOCKSIZE):
        stream.seek(place)
        try:
            info = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
            if info.name != DIGEST or not 0 < info.size <= tarfile.BLOCKSIZE:
                continue
            digest, offset, length = stream.read(info.size).decode("ascii").split()
            return place, digest, (int(offset), int(length))
        except (tarfile.HeaderError, ValueError):
            continue
    return None


def _begins_as_backup(stream: IO[bytes]) -> bool:
    stream.seek(0)
    try:
        name = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape").name
    except tarfile.HeaderError:
        return False
    return name.startswith("././@PaxHeader") or is_known_member(name)


def _read_document(path: Path, stream: IO[bytes], manifest: tuple[int, int], end: int) -> dict[str, Any]:
    """Read the manifest of an intact file, and check the version of the format."""
    try:
        document = _parse_manifest(stream, manifest, end)
        name, version = document["format"], document["formatVersion"]
    except (ValueError, KeyError) as error:
        raise _no_backup_error(path, f"an invalid {MANIFEST}: {error}") from error
    if name != FORMAT:
        raise _no_backup_error(path, f"the format {name!r}")
    if version != FORMAT_VERSION:
        raise InvalidInput(
            f"The backup {path} has a format that this imgstore does not know.",
            found=f"format version {version}, written by imgstore {document.get('imgstore')}",
            expected=f"format version {FORMAT_VERSION}",
            hint="restore with the version of imgstore that wrote the backup, or with a newer version",
            target=str(path),
        )
    return document


def _parse_manifest(stream: IO[bytes], manifest: tuple[int, int], end: int) -> dict[str, Any]:
    """Read the manifest at an offset with a length, before the `end` of the members.

    Raises:
        ValueError: the manifest is outside of the file, or is no JSON object.
    """
    offset, length = manifest
    if not 0 <= length <= _MANIFEST_BYTES_MAX or not 0 <= offset <= end - length:
        raise ValueError("a wrong offset or length")
    stream.seek(offset)
    document = read_json(stream.read(length).decode())
    if not isinstance(document, dict):
        raise ValueError("no object")  # noqa: TRY004 - as for any other wrong document
    return document


def _read_dump(document: Mapping[str, Any]) -> DumpDescription:
    """Return the description of the catalog.

    Raises:
        ValueError: a value has a wrong type for the engine.
    """
    engine, schema, program_major = Engine(document["engine"]), document["schema"], document["programMajor"]
    if (type(schema), type(program_major)) != ((str, int) if engine is Engine.POSTGRESQL else (NoneType, NoneType)):
        raise ValueError(f"the schema {schema!r} and the program {program_major!r} in a backup of {engine}")
    return DumpDescription(
        engine=engine,
        revision=str(document["revision"]),
        oldest_code=str(document["oldestCode"]),
        schema=schema,
        program_major=program_major,
    )


def _members(document: Mapping[str, Any], end: int) -> Iterator[Member]:
    """Yield the members of a manifest.

    Args:
        document: the manifest.
        end: the end of the members in the file.

    Raises:
        ValueError: a member has an unknown name, is repeated, or is outside of the file.
    """
    names, catalog = set[str](), CATALOG_FILES[Engine(document["engine"])]
    for each in document["members"]:
        name = str(each["name"])
        if not is_known_member(name) or (name in CATALOG_FILES.values() and name != catalog):
            raise ValueError(f"the unknown member {name!r}")
        if name in names:
            raise ValueError(f"{name} twice")
        names.add(name)
        extents = tuple((int(begin), int(length)) for begin, length in each["extents"]) if "extents" in each else None
        upload = _UPLOAD_FILE.fullmatch(name)
        if (extents is not None) is not (upload is not None and upload["file"] == DATA_FILE):
            raise ValueError(f"wrong extents of {name}")
        member = Member(
            name=name,
            blake3=str(each["blake3"]),
            file_bytes=int(each["fileBytes"]),
            extents=extents,
            offset=int(each["offset"]),
        )
        last = 0
        for begin, length in extents or ():
            if begin < last or length <= 0:
                raise ValueError(f"unordered extents of {name}")
            last = begin + length
        if last > member.file_bytes or not 0 <= member.offset <= member.offset + member.stored_bytes <= end:
            raise ValueError(f"wrong offsets of {name}")
        yield member


def _find_damaged(stream: IO[bytes], manifest: tuple[int, int], end: int) -> list[str]:
    """Return the names of the members whose bytes differ from the manifest, as far as the manifest can be read."""
    try:
        members = list(_members(_parse_manifest(stream, manifest, end), manifest[0]))
    except (ValueError, KeyError, TypeError):
        return [MANIFEST]
    damaged = []
    for each in members:
        hasher = blake3()
        stream.seek(each.offset)
        for part in _read_exactly(stream, each.stored_bytes):
            hasher.update(part)
        if hasher.hexdigest() != each.blake3:
            damaged.append(each.name)
    return damaged


def _read_exactly(stream: IO[bytes], length: int) -> Iterator[bytes]:
    while length > 0:
        part = stream.read(min(MIB, length))
        if not part:
            return
        length -= len(part)
        yield part


def hash_first_bytes(descriptor: int, length: int, report: Callable[[int], None] = lambda _bytes: None) -> str:
    """Return the BLAKE3 of the first bytes of a file."""
    hasher, at = blake3(), 0
    while at < length and (part := os.pread(descriptor, min(MIB, length - at), at)):
        hasher.update(part)
        at += len(part)
        report(len(part))
    return hasher.hexdigest()


class _PendingStream(io.RawIOBase):
    """A `PendingFile` as a stream."""

    def __init__(self, pending: PendingFile) -> None:
        super().__init__()
        self._pending = pending
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._pending.write(data, self._at, read_soon=True)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at


class _Parts(io.RawIOBase):
    """A table and parts as a stream, which `tarfile` reads. The parts, not the table, are hashed."""

    def __init__(self, table: bytes, parts: Iterable[bytes], update: Callable[[bytes], object]) -> None:
        super().__init__()
        self._parts = iter(parts)
        self._waiting = bytearray(table)
        self._update = update

    def read(self, size: int = -1, /) -> bytes:
        while len(self._waiting) < size and (part := next(self._parts, None)) is not None:
            self._update(part)
            self._waiting += part
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        return taken


def _no_backup_error(path: Path, found: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is no backup of a catalog.",
        found=found,
        expected="a file that `imgstore catalog backup` wrote",
        hint="name the file of a backup",
        target=str(path),
    )


def _damaged_error(path: Path, found: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"The backup {path} is damaged or incomplete, and nothing was written.",
        found=found,
        expected="a file with the digests that `imgstore catalog backup` wrote",
        hint="use another copy of this backup, or another backup",
        target=str(path),
    )
