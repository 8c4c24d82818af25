"""Price lists, and statements of the ledger."""
