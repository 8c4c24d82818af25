"""Store the state of buckets: slots, segments, manifests, works, zones and the ledger."""
