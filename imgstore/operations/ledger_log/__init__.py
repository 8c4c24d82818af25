"""Seal entries of the ledger into a log, and prove and verify the entries."""
