"""Read the bodies and arguments of requests, and write the bodies that the remote client sends."""
