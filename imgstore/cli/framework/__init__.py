"""What all commands share: options, output, progress, sessions and the dispatch to a server."""
