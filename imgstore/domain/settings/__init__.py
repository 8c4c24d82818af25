"""Settings of an installation: tables of settings.toml with their defaults and limits."""
