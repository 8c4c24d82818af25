"""Helps: contract suites, real engines, faults, a clock by hand. Used by tests and bench, never by the program."""
