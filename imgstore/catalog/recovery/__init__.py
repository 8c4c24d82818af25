"""Copies of a whole catalog."""
