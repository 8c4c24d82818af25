"""Manage principals and roles."""
