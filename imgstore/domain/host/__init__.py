"""The operating system of this machine: abilities of file systems, and descriptions of errors."""
