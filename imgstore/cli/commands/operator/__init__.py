"""Commands for operators: server, workers, regions, gc, scrub, bills and settings."""
