"""Values of stored objects: keys, digests, sizes, works, circuits and garbage collection."""
