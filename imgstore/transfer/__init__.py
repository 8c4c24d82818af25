"""Moves bytes between disks and slots. Takes stores and values, gives back receipts, never sees the catalog.

* `ingest`: a disk becomes segments and a manifest in one slot.
* `copying`: a manifest and the segments that a slot lacks go from one slot to another.
* `scatter`: a manifest becomes a disk, by segment, every piece verified.
* `checking`: a disk that was just taken in is put together again, in part or whole.
* `ranges`: a manifest is read at offsets.

Each function that runs long takes `check_cancelled`, which it calls before each request: it raises once the caller's lease is
lost or the user has interrupted, and nothing further is begun (rules.md, rule 5).
"""
