"""Environments: what install leaves behind for a project."""
