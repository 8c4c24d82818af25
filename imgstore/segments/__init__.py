"""Encodes and decodes blocks, pieces, segments, runs, manifests and fingerprints. Pure: no store and no catalog.

The steps of an ingest, which ``transfer/ingest.py`` runs::

    piece (4 MiB) --fingerprint--> index: known? --no--> packer --> segment (<= 1,024 blocks, one object)
                                     | yes                |
                                     +------ location ----+--> runs --> manifest (one object)

docs/internals/layout.md documents the bytes of each format. Only this package reads and writes the formats.
"""
