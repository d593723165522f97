"""modpkg: a package manager for models."""

from __future__ import annotations

__version__ = "0.1.0"
