"""Ingest versions, and replicate versions to their target regions."""
