"""The contract suite of stores, and real engines to run the suite on. Helpers of imgstore's own tests are in tests/support."""
