"""Pure decisions: replication plans, placement, bases, the latest version, maintenance. Nothing waits or writes."""
