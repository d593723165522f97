"""Manifests: ``modpkg.toml``, or ``[tool.modpkg]`` of a ``pyproject.toml``, as typed objects."""
