"""Values of disks and of disk sources."""
