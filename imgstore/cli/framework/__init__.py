"""The common parts of all commands: options, output, progress, sessions and the dispatch to a server."""
