"""Translate between domain values and ARM's JSON, and parse the arguments of requests.

The command line's ``-o json`` and the API share these formats, so the output of az and the output of imgstore agree.
The package has no framework, no input and no output.
"""
