"""Values of disks and of their sources."""
