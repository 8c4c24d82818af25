"""Predict the effects of a change on the bill, without the change (`--what-if`, invariant M16)."""
