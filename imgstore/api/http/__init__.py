"""Carry requests: connections, limits, request contexts and long-running operations."""
