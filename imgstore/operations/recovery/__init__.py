"""Recovery of an installation with a lost or outdated catalog."""
