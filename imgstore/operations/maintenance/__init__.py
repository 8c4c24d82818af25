"""Collect garbage, scrub, and schedule both."""
