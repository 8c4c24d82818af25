"""Scale sets: creation, capacity, model, rolling updates and power states."""
