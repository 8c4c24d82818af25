"""Texts: encodings, strict JSON, and durations."""
