"""Keeps verified, unpacked segments in a bounded folder that all processes of a host share (D12, D13).

Layout of the folder::

    CACHEDIR.TAG        tells backup programs to skip the folder
    segments-1/         the segments; the number is the version of this layout
        usage           the bytes of all files, as counted below (`cache_folder`)
        flights         an empty file for locks on byte ranges
        NAMESPACE-NAME  a segment: namespace of the installation, name in hexadecimal digits (`segment_file`)
        new-PID-NUMBER  a segment that a process writes

A file or folder of another name is ignored, so a newer layout uses a folder of its own. The folders have mode 0700. A
folder of another user is refused. Links, and files of other users, are never read.

A name is the BLAKE3 of the stored segment, and only a verified segment is added. So the name proves the content, and
pools and regions share the files. The name does not prove a right: an operation checks the rights on the manifest,
which contains the names, before the first read. The namespace keeps a manifest of another installation of the same
user from reading a segment by a guessed or listed name.

Locks, in this order. The kernel releases the locks of a killed process.

1. **flight**: a lock (OFD) on one byte of `flights`, chosen by the name. The holder fetches the segment, and other
   processes wait. A waiter with a frozen holder fetches the segment without the lock after `PATIENCE_SECONDS`. Threads
   of a process wait for each other without a file.
2. **usage** (flock on `usage`): protects the count and the eviction. A writer adds the bytes and makes a file of full
   length under the lock, before the first byte is written. So the folder never exceeds the limit. If the sum exceeds
   the limit, the holder lists the folder, corrects the count, and removes the files with the oldest use.
3. **file** (flock on a segment): exclusive for the writer, and for an eviction that truncates the file, because other
   processes may have the file open. Shared for the time of a `locate`. A file in use is unlinked and not truncated.

Crashes: a new file gets its name after the last byte. Nothing is synchronized: a file that a power failure has torn
does not match the hashes, and is removed at the first read. A `new-` file without a lock belongs to a dead process and
is removed by the next eviction.

The time of the last change is the time of the last use. A process sets the time of a file at most once a second.
"""

from imgstore.transfer.segment_cache.cache import CachedSegments, SegmentCache
from imgstore.transfer.segment_cache.cache_folder import CacheUsage
from imgstore.transfer.segment_cache.segment_file import FilePart

__all__ = ["CacheUsage", "CachedSegments", "FilePart", "SegmentCache"]
