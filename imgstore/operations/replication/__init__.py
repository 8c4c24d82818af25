"""Ingest versions and replicate them to their target regions."""
