"""Rated quantities, and their views: statements, daily costs, explanations, usage details and FOCUS rows."""
