"""Parse and write the bodies of requests."""
