"""Values of principals, roles and sharing, and the rules of access."""
