"""Serve Azure Resource Manager and the blob endpoint over HTTP.

The package is an extra (``pip install 'imgstore-gallery[server]'``). Only the commands that need a server import this package. A
handler is async. The handler reads the request and makes one call into a thread pool, which runs a whole operation
(invariant A3).
"""
