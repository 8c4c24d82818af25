"""The machine: file systems, errors of the operating system, private files, the environment and signals."""
