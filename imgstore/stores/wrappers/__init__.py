"""Stores around a store: retries, metering, bandwidth limits, hedging and health."""
