"""ARM and the blob door over HTTP. An extra (``pip install 'imgstore[server]'``): only the commands that need it load it.

A handler is async, reads the request, and makes one call into a thread pool, which runs a whole operation.
"""
