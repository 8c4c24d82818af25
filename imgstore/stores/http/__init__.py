"""Sources over HTTPS, with checked addresses and deadlines."""
