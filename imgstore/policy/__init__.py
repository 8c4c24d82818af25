"""Decides: desired against observed, placement, bases, latest. Pure: plans, never commits, never waits."""
