"""Run commands by a server's API instead of a home."""
