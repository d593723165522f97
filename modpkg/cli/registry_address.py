"""The registry that a command is given as a folder, a URL or an alias."""

from __future__ import annotations

import contextlib

from modpkg.core.errors import ModpkgError
from modpkg.environment.workspace import Workspace
from modpkg.registry.location import Location, default_location
from modpkg.registry.reader import Registry
from modpkg.registry.upkeep import open_alone


def location_of(workspace: Workspace, text: str) -> Location:
    """Return the registry that a folder, URL or alias names."""
    manifest = None
    with contextlib.suppress(ModpkgError):  # aliases of a project count where there is one
        manifest = workspace.manifest
    return default_location(manifest, text, lambda: workspace.settings)


def registry_alone(workspace: Workspace, text: str) -> Registry:
    """Return the registry that a folder, URL or alias names, without copies and mirrors."""
    address = location_of(workspace, text).address
    return open_alone(address, workspace.settings, workspace.progress.warn)
