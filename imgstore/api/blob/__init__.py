"""Serve disks and uploads by the Azure Blob protocol."""
