"""Manage groups, galleries, definitions, sharing and subscriptions, and show versions."""
