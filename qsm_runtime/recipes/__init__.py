"""Packaged recipes, TOML."""
