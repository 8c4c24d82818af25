"""The changed blocks of a disk in a folder: a file of blocks, and a journal of their places (invariants D14 to D16).

A write never overwrites a block that counts. The bytes go to a free slot of the file `data`, then a frame with slot and
XXH3 goes to the journal. The old slot of the block becomes free at once if no flush covered it, else after the next
flush. So each block has the bytes of one write, never a mixture of two.

A flush syncs `data`, then the journal. A frame `durable` in the journal marks the covered frames. Opening trusts these,
and compares each later block with its XXH3: a killed process loses nothing, and a power failure loses at most writes after
the last flush. Such blocks are written again before use, because the medium may have refused the first write without
a report to this process.

| fault | result |
|---|---|
| no space for a write | the write fails, and later writes continue when there is space |
| no space for a frame `durable` | the flush succeeds; the next opening compares more blocks |
| a failed sync | every later write and flush fails until the overlay is opened again, because the kernel may drop the bytes |
| wrong bytes in `data` | the read fails |
"""

import errno
import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash
from blake3 import blake3

from imgstore.domain.effects import Effects
from imgstore.domain.errors import (
    Conflict,
    HostFault,
    ImgstoreError,
    InvalidInput,
    NotFound,
    ObjectCorrupt,
    StoreFull,
)
from imgstore.domain.host.os_errors import advise, describe, is_full
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB, ceil_div
from imgstore.transfer.overlay.block_map import FIRST_SLOT, ZEROED, BlockDigests, BlockMap, Places
from imgstore.transfer.overlay.files import LOCK_FILE, LocalFolder, OverlayFile, OverlayFolder
from imgstore.transfer.overlay.journal import (
    COUNT_MAX,
    ENTRY,
    GENERATION_BYTES,
    NO_ENTRIES,
    Entries,
    Frame,
    FrameKind,
    Header,
    OverlayBase,
    iterate_frames,
    pack_frame,
    pack_header,
    unpack_header,
)

DATA_FILE: Final = "data"
JOURNAL_FILE: Final = "journal"
_NEW_JOURNAL_FILE: Final = "journal.new"
_KNOWN_FILES: Final = frozenset({DATA_FILE, JOURNAL_FILE, _NEW_JOURNAL_FILE, LOCK_FILE})
_JOURNAL_BYTES_KEPT: Final = MIB
"""A journal of at most this length is never rewritten."""
_PUNCHED_SLOTS_MIN: Final = 16
"""Shorter runs of free slots are not worth a hole: the slots are used again."""
_SLOTS_MAX: Final = (1 << 32) - 1
_LOOKS: Final = 3
"""Reads of a slot without the lock before a read with the lock. A slot may get another block during a read."""
_HEADER_BYTES_MAX: Final = 64 * 1024


class Overlay:
    """The changed blocks of a disk. Safe for several threads of the process that has the lock of the folder."""

    def __init__(self, folder: OverlayFolder, base: OverlayBase, *, effects: Effects) -> None:
        """Open or make the overlay in a locked folder, and recover the state after a crash.

        Raises:
            Conflict: the overlay has another base.
            InvalidInput: the journal is no journal of an overlay.
            OSError: the files cannot be used.
        """
        self._folder = folder
        self._effects = effects
        self._lock = threading.RLock()
        self._flush_lock = threading.Lock()
        self._map = BlockMap()
        self._free: list[int] = []
        """The free slots before `_end_slot`, as a heap."""
        self._end_slot = FIRST_SLOT
        self._fresh: set[int] = set()
        """Slots that no flush covered, and that no running flush may cover."""
        self._retired: list[tuple[Places, bool]] = []
        """Slots of replaced blocks that the medium may still need, and whether a hole is punched for them."""
        self._has_unsynced = False
        self._fault: OSError | None = None
        self._is_closed = False
        with ExitStack() as opened:
            if not folder.has(JOURNAL_FILE):
                folder.open(DATA_FILE, is_new=True).close()
                self._header = Header(base=base, generation=effects.random_bytes(GENERATION_BYTES))
                self._write_journal(self._header, b"").close()
            self._data: OverlayFile = folder.open(DATA_FILE)
            opened.callback(self._data.close)
            self._journal: OverlayFile = folder.open(JOURNAL_FILE)
            opened.callback(lambda: self._journal.close())  # noqa: PLW0108 - the recovery may replace the journal
            self._recover(base)
            opened.pop_all()

    @property
    def base(self) -> OverlayBase:
        """The disk below the overlay."""
        return self._header.base

    @property
    def changed_bytes(self) -> int:
        """The bytes of the changed blocks, without zeroed blocks."""
        with self._lock:
            return len(self._map.entries()) * BLOCK_BYTES

    @property
    def has_changes(self) -> bool:
        """Whether any block was written or zeroed."""
        with self._lock:
            return bool(self._map.pieces())

    def is_untouched(self, first: int, count: int) -> bool:
        """Return whether no piece of consecutive blocks has a changed block. The check costs less than `look_up`."""
        with self._lock:
            return self._map.is_untouched(first, count)

    def look_up(self, first: int, count: int) -> Places:
        """Return the place of each of consecutive blocks."""
        with self._lock:
            return self._map.look_up(first, count)[0]

    def changed_pieces(self, first_piece: int = 0, end_piece: int | None = None) -> list[int]:
        """Return the sorted indexes of the pieces with a changed block in [first_piece, end_piece)."""
        with self._lock:
            return self._map.pieces(first_piece, end_piece)

    def content_digest(self) -> Digest:
        """Return a digest of the changed blocks and their content. Equal changes have equal digests."""
        with self._lock:
            entries, zeros = self._map.entries(), list(self._map.zero_runs())
        hasher = blake3(entries["block"].tobytes())
        hasher.update(entries["digest"].tobytes())
        hasher.update(np.array(zeros, dtype="<u8").tobytes())
        return hasher.digest()

    @contextmanager
    def exclude_writers(self) -> Iterator[None]:
        """Keep other threads from writing, so that a block can be read, changed and written. No store is asked here."""
        with self._lock:
            yield

    def read(self, first: int, count: int, read_base: Callable[[int, int], bytes | memoryview]) -> memoryview:
        """Return the bytes of consecutive blocks.

        Args:
            first: the first block.
            count: the number of blocks, at least 1.
            read_base: reads a number of blocks from a first block in the base. The result may be shorter at the end of
                the disk. No lock is held during the call.

        Raises:
            ObjectCorrupt: bytes of the overlay are damaged.
            HostFault: the overlay cannot be read.
        """
        with self._lock:
            places, digests = self._map.look_up(first, count)
        out = memoryview(bytearray(count * BLOCK_BYTES))
        for begin, end in _runs(places):
            place = int(places[begin])
            part = out[begin * BLOCK_BYTES : end * BLOCK_BYTES]
            if place >= FIRST_SLOT:
                self._read_slots(first + begin, places[begin:end], digests[begin:end], part)
            elif place != ZEROED:
                data = read_base(first + begin, end - begin)
                part[: len(data)] = data
        return out

    def write(self, first: int, data: bytes | memoryview) -> None:
        """Write consecutive whole blocks. The bytes are durable after the next flush.

        Raises:
            StoreFull: no space or no slot is left. The blocks keep their old content.
            HostFault: the overlay cannot be written.
        """
        view = memoryview(data)
        count = len(view) // BLOCK_BYTES
        digests = np.fromiter(
            (xxhash.xxh3_64_intdigest(view[at : at + BLOCK_BYTES]) for at in range(0, len(view), BLOCK_BYTES)),
            dtype=np.uint64,
            count=count,
        )
        with self._lock, self._translate():
            self._check_usable()
            slots = self._take_slots(count)
            try:
                for begin, end in _runs(slots):
                    self._data.write_at(_position(int(slots[begin])), view[begin * BLOCK_BYTES : end * BLOCK_BYTES])
                entries = np.empty(count, dtype=ENTRY)
                entries["block"], entries["slot"], entries["digest"] = np.arange(first, first + count), slots, digests
                self._append(pack_frame(self._header.seed, FrameKind.DATA, count=count, entries=entries))
            except BaseException:
                self._give_back(slots.tolist())
                raise
            self._fresh.update(slots.tolist())
            self._retire(self._map.put(first, slots, digests), punch=False)
            self._has_unsynced = True

    def zero(self, first: int, count: int) -> None:
        """Make consecutive blocks zero. The change is durable after the next flush.

        Raises:
            StoreFull: no space is left for the frame. The blocks keep their old content.
            HostFault: the overlay cannot be written.
        """
        with self._lock, self._translate():
            self._check_usable()
            for at in range(first, first + count, COUNT_MAX):
                taken = min(COUNT_MAX, first + count - at)
                self._append(pack_frame(self._header.seed, FrameKind.ZEROS, count=taken, value=at))
                self._retire(self._map.zero(at, taken), punch=True)
                self._has_unsynced = True

    def flush(self) -> None:
        """Make all writes durable that ended before the call.

        Raises:
            HostFault: the medium refused bytes. The overlay refuses all writes until the next opening.
        """
        with self._flush_lock, self._translate():
            with self._lock:
                self._check_usable()
                if not self._has_unsynced:
                    return
                self._has_unsynced = False
                position = self._journal_bytes
                retired, self._retired = self._retired, []
                self._fresh = set()
            try:
                self._data.sync()
                self._mark_durable(position)
                self._journal.sync()
            except OSError as error:
                with self._lock:
                    self._fault = error
                raise
            with self._lock:
                for slots, punch in retired:
                    self._release(slots, punch=punch)
                self._shrink_journal()

    def close(self) -> None:
        """Flush, close the files and release the lock of the folder.

        Raises:
            HostFault: the medium refused bytes.
        """
        try:
            if self._fault is None:
                self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files without a flush, and release the lock. May be called twice."""
        with self._flush_lock, self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._fault = self._fault or OSError(errno.EBADF, "the overlay was closed")
            for each in (self._journal, self._data, self._folder):
                each.close()

    # Slots

    def _take_slots(self, count: int) -> Places:
        """Take the lowest free slots, so that the file stays short and the slots are often consecutive."""
        taken = [heapq.heappop(self._free) for _ in range(min(count, len(self._free)))]
        missing = count - len(taken)
        if self._end_slot + missing > _SLOTS_MAX:
            self._give_back(taken)
            raise StoreFull(
                "The overlay is full.",
                found=f"{self._end_slot} blocks",
                expected=f"at most {_SLOTS_MAX}",
                hint="commit the overlay with `imgstore disk commit`, and begin another one",
                target=self._folder.label,
            )
        taken.extend(range(self._end_slot, self._end_slot + missing))
        self._end_slot += missing
        return np.array(taken, dtype=np.uint32)

    def _retire(self, slots: Places, *, punch: bool) -> None:
        """Release the slots of replaced blocks that no flush covered, and keep the others until the next flush."""
        if not len(slots):
            return
        is_fresh = np.fromiter((slot in self._fresh for slot in slots.tolist()), dtype=np.bool_, count=len(slots))
        self._release(slots[is_fresh], punch=punch)
        if not is_fresh.all():
            self._retired.append((slots[~is_fresh], punch))

    def _release(self, slots: Places, *, punch: bool) -> None:
        self._fresh.difference_update(slots.tolist())
        self._give_back(slots.tolist())
        if not punch:
            return
        ordered = np.sort(slots)
        for begin, end in _runs(ordered):
            if end - begin >= _PUNCHED_SLOTS_MIN:
                with suppress(OSError):  # The space is used again in any case.
                    self._data.punch(_position(int(ordered[begin])), (end - begin) * BLOCK_BYTES)

    def _give_back(self, slots: Sequence[int]) -> None:
        for slot in slots:
            heapq.heappush(self._free, slot)

    def _read_slots(self, first: int, places: Places, digests: BlockDigests, out: memoryview) -> None:
        """Read blocks from consecutive slots. Look the blocks up again if a writer replaced one of them meanwhile."""
        for _ in range(_LOOKS):
            if self._read_matching(places, digests, out):
                return
            with self._lock:
                places, digests = self._map.look_up(first, len(places))
        with self._lock:
            places, digests = self._map.look_up(first, len(places))
            if self._read_matching(places, digests, out):
                return
        raise ObjectCorrupt(
            "A block of the overlay is damaged.",
            found=f"other bytes than written, among {len(places)} blocks from byte {first * BLOCK_BYTES} of the disk",
            expected="the bytes of the last write",
            hint="check the health of the disk and the kernel's log (`dmesg`); the base is not affected",
            target=self._folder.label,
        )

    def _read_matching(self, places: Places, digests: BlockDigests, out: memoryview) -> bool:
        """Read changed blocks into `out`. Return whether all blocks match their digests."""
        matches = True
        for begin, end in _runs(places):
            part = out[begin * BLOCK_BYTES : end * BLOCK_BYTES]
            place = int(places[begin])
            if place < FIRST_SLOT:
                part[:] = bytes(len(part))
                continue
            with self._translate():
                data = self._data.read_at(_position(place), len(part))
            part[: len(data)] = data
            matches = matches and len(data) == len(part) and _matches(part, digests[begin:end])
        return matches

    # Journal

    def _append(self, frames: bytes) -> None:
        """Append frames. After a partial write, the journal ends where it ended before."""
        try:
            self._journal.write_at(self._journal_bytes, frames)
        except OSError:
            try:
                self._journal.truncate(self._journal_bytes)
            except OSError as error:  # A later frame would follow a torn frame, and would not count.
                self._fault = error
            raise
        self._journal_bytes += len(frames)

    def _mark_durable(self, position: int) -> None:
        with self._lock:
            try:
                self._append(pack_frame(self._header.seed, FrameKind.DURABLE, value=position))
            except OSError as error:
                if not is_full(error) or self._fault is not None:
                    raise

    def _shrink_journal(self) -> None:
        """Rewrite a journal that is much longer than its state, unless a block is not durable."""
        if self._has_unsynced or self._journal_bytes <= _JOURNAL_BYTES_KEPT:
            return
        header = self._new_header()
        state = self._pack_state(header)
        if self._journal_bytes <= 2 * len(state):
            return
        try:
            journal = self._write_journal(header, state)
        except OSError:  # The old journal remains in use.
            if self._fault is not None:
                raise
            return
        self._use_journal(header, journal)

    def _new_header(self) -> Header:
        return Header(base=self._header.base, generation=self._effects.random_bytes(GENERATION_BYTES))

    def _write_journal(self, header: Header, state: bytes) -> OverlayFile:
        """Replace the journal by a journal with that state. A crash leaves a whole journal, old or new."""
        body = pack_header(header) + state
        journal = self._folder.open(_NEW_JOURNAL_FILE, is_new=True)
        try:
            journal.write_at(0, body + pack_frame(header.seed, FrameKind.DURABLE, value=len(body)))
            journal.sync()
            try:
                self._folder.replace(_NEW_JOURNAL_FILE, JOURNAL_FILE)
            except OSError as error:  # Either journal may have the name now.
                self._fault = error
                raise
        except BaseException:
            journal.close()
            with suppress(OSError):
                self._folder.remove(_NEW_JOURNAL_FILE)
            raise
        return journal

    def _use_journal(self, header: Header, journal: OverlayFile) -> None:
        self._journal.close()
        self._header, self._journal, self._journal_bytes = header, journal, journal.file_bytes()

    def _pack_state(self, header: Header) -> bytes:
        entries = self._map.entries()
        parts = [
            pack_frame(header.seed, FrameKind.DATA, count=len(part), entries=part)
            for part in (entries[at : at + COUNT_MAX] for at in range(0, len(entries), COUNT_MAX))
        ]
        for first, count in self._map.zero_runs():
            for at in range(first, first + count, COUNT_MAX):
                taken = min(COUNT_MAX, first + count - at)
                parts.append(pack_frame(header.seed, FrameKind.ZEROS, count=taken, value=at))
        return b"".join(parts)

    # Recovery

    def _recover(self, base: OverlayBase) -> None:
        """Read the journal, drop what was never durable, and write everything else to the medium again.

        After a failed sync, the kernel may show bytes that are not on the medium. A second write of equal bytes makes
        the kernel try again.
        """
        body = memoryview(self._journal.read_at(0, self._journal.file_bytes()))
        found = unpack_header(body)
        if found is None:
            raise _not_an_overlay(self._folder.label)
        self._header, begin = found
        if not self._header.base.has_content_of(base):
            raise wrong_base(self._folder.label, self._header.base, base)
        frames = list(iterate_frames(body, begin, self._header.seed))
        if not all(_is_inside(each, self.base) for each in frames):
            raise _not_an_overlay(self._folder.label)
        self._journal_bytes = frames[-1].end if frames else begin
        durable = max((each.value for each in frames if each.kind is FrameKind.DURABLE), default=begin)
        earlier = [each for each in frames if each.end <= durable]
        later = [each for each in frames if each.end > durable]
        is_right = self._compare_blocks(np.concatenate([NO_ENTRIES, *(each.entries for each in later)]))
        self._map = _apply_frames(earlier, later, is_right)
        entries = self._map.entries()
        self._end_slot = int(entries["slot"].max()) + 1 if len(entries) else FIRST_SLOT
        is_free = np.ones(self._end_slot, dtype=np.bool_)
        is_free[:FIRST_SLOT] = False
        is_free[entries["slot"]] = False
        self._free = np.flatnonzero(is_free).tolist()
        self._data.truncate(_position(self._end_slot))
        self._write_again(entries, np.concatenate([NO_ENTRIES, *(each.entries for each in later)]))
        if not is_right.all() and not self._map.equals(_apply_frames(earlier, later, np.ones_like(is_right))):
            # A later frame `durable` must not cover the frames of lost blocks.
            header = self._new_header()
            self._use_journal(header, self._write_journal(header, self._pack_state(header)))
            return
        self._journal.truncate(self._journal_bytes)
        self._journal.write_at(0, body[: self._journal_bytes])
        if later:
            self._mark_durable(self._journal_bytes)
        self._journal.sync()

    def _compare_blocks(self, entries: Entries) -> npt.NDArray[np.bool_]:
        """Return for each entry whether its slot has the block, and no later entry uses the slot."""
        is_right = np.zeros(len(entries), dtype=np.bool_)
        seen = set[int]()
        for row in range(len(entries) - 1, -1, -1):
            slot = int(entries["slot"][row])
            if slot not in seen:
                seen.add(slot)
                data = self._data.read_at(_position(slot), BLOCK_BYTES)
                is_right[row] = len(data) == BLOCK_BYTES and _matches(data, entries["digest"][row : row + 1])
        return is_right

    def _write_again(self, entries: Entries, unsynced: Entries) -> None:
        """Write the blocks again whose last write may not be on the medium."""
        for entry in entries[np.isin(entries["slot"], unsynced["slot"])]:
            at = _position(int(entry["slot"]))
            self._data.write_at(at, self._data.read_at(at, BLOCK_BYTES))
        self._data.sync()

    # Errors

    def _check_usable(self) -> None:
        if self._fault is not None:
            raise HostFault(
                f"The overlay {self._folder.label} refuses writes until it is opened again.",
                found=describe(self._fault),
                expected="an open overlay on a medium that keeps all bytes",
                hint="check the health of the disk, then attach the disk again: flushed writes are kept",
                target=self._folder.label,
            )

    @contextmanager
    def _translate(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise overlay_error(error, self._folder.label) from error


def open_overlay(path: Path, base: OverlayBase, *, effects: Effects | None = None) -> Overlay:
    """Open the overlay in a folder over a base, or make an empty overlay.

    Raises:
        WorkHeld: another process has the overlay open.
        Conflict: the overlay has another base.
        InvalidInput: the folder has other files, or a journal that is no journal of an overlay.
        StoreFull, HostFault: the files cannot be used.
    """
    try:
        _check_folder(path)
        folder = LocalFolder(path)
        try:
            return Overlay(folder, base, effects=effects or Effects())
        except BaseException:
            folder.close()
            raise
    except OSError as error:
        raise overlay_error(error, str(path)) from error


def read_overlay_base(path: Path) -> OverlayBase:
    """Return the base of the overlay in a folder, without the lock.

    Raises:
        NotFound: the folder has no overlay.
        InvalidInput: the journal is no journal of an overlay.
        HostFault: the journal cannot be read.
    """
    try:
        with (path / JOURNAL_FILE).open("rb") as file:
            found = unpack_header(file.read(_HEADER_BYTES_MAX))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"There is no overlay in {path}.",
            found="no journal",
            expected="the folder of `imgstore disk attach --overlay`",
            hint="check the path's spelling",
            target=str(path),
        ) from error
    except OSError as error:
        raise overlay_error(error, str(path)) from error
    if found is None:
        raise _not_an_overlay(str(path))
    return found[0].base


def overlay_error(error: OSError, label: str) -> ImgstoreError:
    """Translate an error of the operating system about the files of an overlay."""
    kind = StoreFull if is_full(error) else HostFault
    return kind(
        f"The overlay {label} cannot be used.",
        found=describe(error),
        expected="free space and write permission",
        hint=f"{advise(error, label)}: flushed writes are kept",
        target=label,
    )


def _check_folder(path: Path) -> None:
    """Refuse a folder with files of something else."""
    if not path.exists():
        return
    others = sorted({each.name for each in path.iterdir()} - _KNOWN_FILES)
    if others:
        raise InvalidInput(
            f"The folder {path} is not an overlay.",
            found=f"other files, such as '{others[0]}'",
            expected="a new or empty folder, or the folder of an overlay",
            hint="name another folder",
            target=str(path),
        )


def _not_an_overlay(label: str) -> InvalidInput:
    return InvalidInput(
        f"The folder {label} is not an overlay.",
        found="a file 'journal' with other bytes, or of a newer release",
        expected="the folder of `imgstore disk attach --overlay`",
        hint="name another folder",
        target=label,
    )


def wrong_base(label: str, known: OverlayBase, given: OverlayBase) -> Conflict:
    """Create the error for changes of another base."""
    return Conflict(
        f"The overlay {label} has another base.",
        found=f"{given.location}, {given.virtual_bytes} bytes, disk digest {given.disk_digest.hex()}",
        expected=f"{known.location}, {known.virtual_bytes} bytes, disk digest {known.disk_digest.hex()}",
        hint="name the disk or version of the first attach, or a new folder",
        target=label,
    )


def _apply_frames(earlier: Sequence[Frame], later: Sequence[Frame], is_right: npt.NDArray[np.bool_]) -> BlockMap:
    """Return the map after all frames, without the wrong entries of the later frames."""
    made = BlockMap()
    for frame in earlier:
        _apply_frame(made, frame, frame.entries)
    row = 0
    for frame in later:
        _apply_frame(made, frame, frame.entries[is_right[row : row + len(frame.entries)]])
        row += len(frame.entries)
    return made


def _apply_frame(blocks: BlockMap, frame: Frame, entries: Entries) -> None:
    if frame.kind is FrameKind.ZEROS:
        blocks.zero(frame.value, frame.count)
    elif len(entries):
        blocks.put_entries(entries)


def _is_inside(frame: Frame, base: OverlayBase) -> bool:
    """Return whether a frame names blocks of the disk and slots only."""
    blocks = ceil_div(base.virtual_bytes, BLOCK_BYTES)
    if frame.kind is FrameKind.ZEROS:
        return frame.value + frame.count <= blocks
    entries = frame.entries
    return not len(entries) or bool(entries["block"].max() < blocks and entries["slot"].min() >= FIRST_SLOT)


def _position(slot: int) -> int:
    """Return the position of a slot in the file `data`."""
    return (slot - FIRST_SLOT) * BLOCK_BYTES


def _runs(places: Places) -> list[tuple[int, int]]:
    """Return [begin, end) of the runs of consecutive slots, of zeroed blocks and of unchanged blocks."""
    if len(places) == 1:
        return [(0, 1)]
    step = np.diff(places.astype(np.int64))
    has_slot = places >= FIRST_SLOT
    joined = np.where(has_slot[1:] & has_slot[:-1], step == 1, step == 0)
    begins = [0, *(np.flatnonzero(~joined) + 1).tolist()]
    return list(zip(begins, [*begins[1:], len(places)], strict=True))


def _matches(blocks: bytes | memoryview, digests: BlockDigests) -> bool:
    view = memoryview(blocks)
    return all(
        xxhash.xxh3_64_intdigest(view[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]) == digest
        for at, digest in enumerate(digests.tolist())
    )
