"""Billing: charges for transferred bytes, storage intervals, prices and statements. Pure Decimal arithmetic."""
