"""Make and measure a sample gallery."""
