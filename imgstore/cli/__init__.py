"""Speaks: the terminal. One verb of az, one function; results on standard output, all else on standard error."""
