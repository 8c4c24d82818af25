"""The client of an imgstore server: ARM API for resources, blob endpoint for bytes. No home is needed.

The client has no catalog and no store. Local disks are files, which the package `formats` reads and writes.
"""
