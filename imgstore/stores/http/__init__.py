"""Read sources by HTTPS, with checked addresses and deadlines."""
