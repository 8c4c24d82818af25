"""Commands about groups, principals, roles and accounts."""
