"""Stored bytes: the owner of each byte, the intervals of storage, and their durations."""
