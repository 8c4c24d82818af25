"""Keeps bytes: stores and the wrappers around them. Knows nothing of disks, segments or the catalog."""
