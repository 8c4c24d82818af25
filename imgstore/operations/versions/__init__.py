"""Create, update and delete image versions."""
