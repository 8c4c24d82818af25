"""Commands for the protection and recovery of the catalog."""
