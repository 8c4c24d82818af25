"""Change slots under a lease: works, completion, removal, repair and garbage guards."""
