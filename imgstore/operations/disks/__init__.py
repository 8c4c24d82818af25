"""Create, upload, read, export and verify disks."""
