"""An uploader that is cheap enough not to be the limit: what a file holds, and not its holes, by several connections.

`bench.cases.doors` runs it as a process: ``python -m bench.sending --roots FILE URL VHD``. Each connection sends plain
PUTs with Content-Range, as a build machine may; an answer is waited for before the next.
"""

import argparse
import http.client
import mmap
import os
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

MIB = 1 << 20
REQUEST_BYTES_MAX = 16 * MIB
GAP_BYTES_MIN = 256 << 10
"""A shorter hole is sent: a request of its own costs more."""
CONNECTIONS = 4
Span = tuple[int, int]
"""Begin and end in the file."""


def spans(path: Path) -> Iterator[Span]:
    """What the file holds, in order, in parts of at most `REQUEST_BYTES_MAX`, as its file system tells."""
    held: Span | None = None
    for begin, end in _extents(path):
        if held is not None and begin - held[1] < GAP_BYTES_MIN:
            held = held[0], end
            continue
        if held is not None:
            yield from _parts(*held)
        held = begin, end
    if held is not None:
        yield from _parts(*held)


def _extents(path: Path) -> Iterator[Span]:
    with path.open("rb", buffering=0) as file:
        size, end = path.stat().st_size, 0
        while end < size:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: holes alone to the end
                return
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            yield begin, end


def _parts(begin: int, end: int) -> Iterator[Span]:
    for at in range(begin, end, REQUEST_BYTES_MAX):
        yield at, min(at + REQUEST_BYTES_MAX, end)


def send(url: str, roots: Path, path: Path, connections: int = CONNECTIONS) -> int:
    """Uploads what the file holds.

    Returns:
        How many bytes were sent, heads left out.

    Raises:
        RuntimeError: an answer was not 201.
    """
    waiting: SimpleQueue[Span] = SimpleQueue()
    for span in spans(path):
        waiting.put(span)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = memoryview(mapped)

        def work(_: int) -> int:
            return _send_all(url, roots, view, waiting)

        with ThreadPoolExecutor(connections) as pool:
            sent = sum(pool.map(work, range(connections)))
        view.release()
    return sent


def _send_all(url: str, roots: Path, view: memoryview, waiting: "SimpleQueue[Span]") -> int:
    """One connection's part: what nobody else has taken."""
    address = urlsplit(url)
    context = ssl.create_default_context(cafile=str(roots))
    connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=context)
    target, sent = f"{address.path}?{address.query}", 0
    while True:
        try:
            begin, end = waiting.get_nowait()
        except Empty:
            connection.close()
            return sent
        headers = {"Content-Range": f"bytes {begin}-{end - 1}/{len(view)}", "Content-Length": str(end - begin)}
        connection.request("PUT", target, view[begin:end], headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 201:
            raise RuntimeError(f"expected 201, found {answer.status}: {said[:500]!r}")
        sent += end - begin


def main() -> None:
    """Send, and tell how many bytes that took."""
    parser = argparse.ArgumentParser(prog="bench.sending")
    parser.add_argument("--roots", type=Path, required=True)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    print(send(given.url, given.roots, given.file))


if __name__ == "__main__":
    main()
