"""Commands about galleries, image definitions and image versions."""
