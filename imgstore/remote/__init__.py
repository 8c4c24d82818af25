"""The client of another machine's imgstore: its ARM API, and its blob door for bytes. For machines without a home.

It holds no catalog and no store: what it reads and writes here are files, through `formats`.
"""
