"""Principals, roles and sharing, and the rules of access."""
