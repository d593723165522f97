"""Releases: what belongs to one, how it is built, and how it is checked."""
