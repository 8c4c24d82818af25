"""Translates: domain values to ARM's JSON and words of a request to domain values. No framework, nothing is asked.

The command line's ``-o json`` and the API share these shapes, so that what az prints and what imgstore prints agree.
"""
