"""Read and write local files: atomic files, direct I/O, holes and read-ahead."""
