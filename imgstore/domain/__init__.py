"""Names: values, states, digests, access rules and the error tree. Imports no other room."""
