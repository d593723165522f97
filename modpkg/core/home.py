"""Where modpkg keeps things on this machine, and what the environment variables say."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the user's modpkg folder: ``MODPKG_HOME``, else the platform's data folder."""
    if chosen := os.environ.get("MODPKG_HOME"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("modpkg", appauthor=False))


def config_path() -> Path:
    """Return the file with what the user has set."""
    return home() / "config.toml"


def store_folder() -> Path:
    """Return the folder of the store, one per user."""
    return home() / "store"


def default_registry() -> str:
    """Return the embedded registry, used when nothing names another: a folder of the user's."""
    return str(home() / "registry")


def user_project() -> Path:
    """Return the folder of the user's own environment; it has a manifest and a lock too."""
    return home() / "environment"


def trials_folder() -> Path:
    """Return the folder where bisecting and tested updates install what they try."""
    return home() / "trials"
