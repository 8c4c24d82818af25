"""Cuts and packs: blocks, pieces, segments, runs, manifests and fingerprints. Pure: neither stores nor files.

How a disk goes in (``transfer/ingest.py`` drives it)::

    piece (4 MiB) --fingerprint--> index: known? --no--> packer --> segment (<= 1,024 blocks, one object)
                                     | yes                |
                                     +------ location ----+--> runs --> manifest (one object)

The bytes of each format are written down in DESIGN.md, "Bytes at rest"; the code here is their only reader and writer.
"""
