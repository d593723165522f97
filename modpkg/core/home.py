"""The folders of modpkg on this machine, and the environment variables that set them."""

from __future__ import annotations

import os
from pathlib import Path

REGISTRY_VARIABLE = "MODPKG_REGISTRY"
"""The variable with the default registry: a folder, a URL or an alias."""


def home() -> Path:
    """Return the user's modpkg folder: ``MODPKG_HOME``, else the platform's data folder."""
    if chosen := os.environ.get("MODPKG_HOME"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("modpkg", appauthor=False))


def config_path() -> Path:
    """Return the path of the user's settings file."""
    return home() / "config.toml"


def store_folder() -> Path:
    """Return the folder of the store, one per user."""
    return home() / "store"


def default_registry() -> str:
    """Return the default registry, used when no other is configured: a folder of the user."""
    return str(home() / "registry")


def user_project() -> Path:
    """Return the folder of the user's environment; it has a manifest and a lock too."""
    return home() / "environment"


def exports_folder() -> Path:
    """Return the folder where models are laid out that an OCI registry gets."""
    return home() / "exports"


def hub_folder() -> Path:
    """Return the folder of modules made of hubs' commits."""
    return home() / "hub"


def trials_folder() -> Path:
    """Return the folder where bisecting and tested updates install their candidates."""
    return home() / "trials"
