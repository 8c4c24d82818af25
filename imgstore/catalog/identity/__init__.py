"""Store principals, roles and trusted signing keys."""
