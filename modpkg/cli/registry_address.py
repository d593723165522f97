"""The registry that a command is given as a folder, a URL or an alias."""

from __future__ import annotations

import contextlib

from modpkg.cli.output import warn
from modpkg.core.errors import ModpkgError
from modpkg.core.hub_address import is_hub_address
from modpkg.environment.signed_registries import expect_root, expect_seen, log_of, verify_index
from modpkg.environment.workspace import Workspace
from modpkg.registry.left_unsigned import left_unsigned
from modpkg.registry.location import Location, default_location
from modpkg.registry.opening import open_storage
from modpkg.registry.place import Place
from modpkg.registry.reader import Registry
from modpkg.registry.upkeep import open_alone
from modpkg.trust.log.memory import LogState


def location_of(workspace: Workspace, text: str) -> Location:
    """Return the registry that a folder, URL or alias names."""
    manifest = None
    with contextlib.suppress(ModpkgError):  # aliases of a project count where there is one
        manifest = workspace.manifest
    return default_location(manifest, text, lambda: workspace.settings)


def storage_of(workspace: Workspace, text: str) -> Place:
    """Return the place of the files of a registry that a folder, URL or alias names.

    Raises:
        PublishError: It names where a registry is read.
    """
    return open_storage(location_of(workspace, text).address, workspace.settings)


def warn_if_unsigned(place: Place) -> None:
    """Warn that the index at a place, which was changed, has to be signed again, if it has to."""
    if (left := left_unsigned(place)) is not None:
        warn(left)


def registry_alone(workspace: Workspace, text: str) -> Registry:
    """Return the registry that a folder, URL or alias names, without copies and mirrors.

    Its index is read as it is signed, if it is, and held to what manifest and lock say of it.
    """
    address = location_of(workspace, text).address
    registry = open_alone(address, workspace.settings, workspace.progress.warn)
    if not is_hub_address(address):  # its commit names every byte
        verify_index(registry.files)
        with contextlib.suppress(ModpkgError):
            expect_root(registry, workspace.manifest)
            if (seen := workspace.registries.locked(registry, workspace.lock)) is not None:
                expect_seen(registry, seen)
    return registry


def locked_log(workspace: Workspace, registry: Registry) -> LogState | None:
    """Return what the project's lock has seen of the log of a registry; None for nothing."""
    with contextlib.suppress(ModpkgError):
        return log_of(workspace.registries.locked(registry, workspace.lock))
    return None


def locked_releases(workspace: Workspace, registry: Registry) -> set[str]:
    """Return the digests of a registry's releases that the project's lock has."""
    with contextlib.suppress(ModpkgError):
        return workspace.registries.locked_releases(registry, workspace.lock)
    return set()
