"""The log of the ledger: entries as leaves of a Merkle tree, proofs, and signed checkpoints."""
