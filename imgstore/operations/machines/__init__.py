"""Create, show and delete machines and managed images."""
