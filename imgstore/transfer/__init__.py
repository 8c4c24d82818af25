"""Moves bytes between disks and slots. Functions take stores and values, return receipts and never use the catalog.

* `ingest`: turn a disk into segments and a manifest in a slot.
* `copy`: copy a manifest and the missing segments from slot to slot.
* `scatter`: turn a manifest into a disk, segment by segment, with every piece verified.
* `spot_check`: assemble a newly ingested disk again, a sample or the whole.
* `ranges`: read a manifest at offsets.

Each long function takes `check_cancelled` and calls it before each request. The call raises after the loss of the
caller's lease or an interrupt by the user, so no further request begins (invariant W18).
"""
