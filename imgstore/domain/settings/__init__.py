"""Settings of an installation: tables of settings.toml with defaults and limits."""
