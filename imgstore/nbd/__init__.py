"""Serve block devices over the NBD protocol."""
