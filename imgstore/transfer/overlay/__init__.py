"""Keeps the writes to a stored disk in a folder of this machine, apart from the disk.

* `overlay`: the changed blocks, with a journal, flushes and recovery.
* `device`: a block device of a base and the overlay.
* `journal`: the bytes of the journal.
* `block_map`: the places of the changed blocks, in memory.
* `files`: the files of the folder.
"""
