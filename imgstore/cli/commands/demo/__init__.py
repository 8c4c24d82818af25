"""Commands that show and measure a new installation."""
