"""Registries: trees of files that hold releases, read and written."""
