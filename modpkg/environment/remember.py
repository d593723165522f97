"""Remembering a registry in the manifest, so that the next command, and others, find it again.

``install --registry`` names one for what it adds. Where the manifest has no default yet, it becomes
that; otherwise it gets an alias, which the added dependencies name. The manifest always has the
address itself: an alias or a default of the user's ``config.toml`` is nothing that another machine
could read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.errors import LockError, RegistryError
from modpkg.core.home import config_path
from modpkg.core.redacted import redacted
from modpkg.environment.inherited import Match
from modpkg.environment.workspace import Workspace
from modpkg.manifest.dependencies import DEFAULT
from modpkg.manifest.edit import set_registry
from modpkg.manifest.schema import Dependency
from modpkg.registry.location import Location, alias_location, default_location
from modpkg.registry.names import plain_name
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")


class Remembered(Struct, frozen=True):
    """A manifest's text, in which a registry may be new, and who of its dependencies name it."""

    text: str
    alias: str | None = None
    """The alias for what is added; `DEFAULT` for the default registry, None if as before."""
    rivalled: frozenset[str] = frozenset()
    """What is added and also in another registry, so that it has to name the default one."""

    def written(self, name: str, before: Dependency | None) -> str | None:
        """Return the alias that a dependency has in the manifest; None for none.

        ``before`` is what the manifest has of it so far.
        """
        if self.alias is None:
            if before is None:
                return None
            return DEFAULT if before.from_default else before.registry
        if self.alias == DEFAULT:
            return DEFAULT if name in self.rivalled else None
        return self.alias


def remember(workspace: Workspace, added: Collection[str]) -> Remembered:
    """Return the manifest's text with the registry that ``added`` are to be installed from.

    Raises:
        ModpkgError: What was named is not a registry, or cannot be read.
    """
    remembered = _remembered(workspace, added)
    if remembered.alias != DEFAULT:
        return remembered
    rivals = workspace.registries.rivals
    return replace(remembered, rivalled=frozenset(name for name in added if rivals.of(name)))


def _remembered(workspace: Workspace, added: Collection[str]) -> Remembered:
    manifest, text, is_user = workspace.manifest, workspace.text, workspace.project.is_user
    option = workspace.options.registry
    usual = default_location(manifest, None, lambda: workspace.settings)
    if option is None:
        if usual.source == "settings" and added and not is_user and not _is_secret(usual):
            text = set_registry(text, DEFAULT, usual.address)
        return Remembered(text)
    chosen = default_location(manifest, option, lambda: workspace.settings)
    for alias in sorted(manifest.registries, key=lambda alias: alias != DEFAULT):
        if alias_location(manifest, alias).same(chosen.address):
            return Remembered(text, alias) if added else Remembered(text)
    is_usual = usual.same(chosen.address)
    if is_usual and (usual.source == "built-in" or (is_user and usual.source == "settings")):
        return Remembered(text, DEFAULT)
    if _is_secret(chosen) and not is_usual:
        raise RegistryError("M896", url=chosen.address, config=config_path())
    registry = workspace.registries.at(chosen)
    if _is_secret(chosen):
        return Remembered(text)
    name = registry.name  # raises if there is none, so that none is written
    address = _written(option, chosen, workspace)
    is_overridden = usual.source == "variable" and not is_usual
    has_default = DEFAULT in manifest.registries or is_user or is_overridden
    if not has_default and not _others_locked(workspace, added, registry):
        return Remembered(set_registry(text, DEFAULT, address), DEFAULT)
    if not added:
        return Remembered(text)
    alias = _unused(chosen.alias or plain_name(name), manifest.registries)
    return Remembered(set_registry(text, alias, address), alias)


def _is_secret(location: Location) -> bool:
    return redacted(location.address) != location.address


def moved(workspace: Workspace, added: Collection[str]) -> list[str]:
    """Return which of ``added`` are locked from another registry than the one that is named.

    That they are to come from it now is what the command says.
    """
    option, lock = workspace.options.registry, _lock(workspace)
    if option is None or lock is None:
        return []
    manifest = workspace.manifest
    chosen = default_location(manifest, option, lambda: workspace.settings)
    registry = workspace.registries.at(chosen)
    return [
        module.name
        for module in lock.module
        if module.name in added and workspace.registries.match(registry, module) is not Match.FULL
    ]


def _lock(workspace: Workspace) -> Lock | None:
    try:
        return workspace.lock
    except LockError:
        return None  # it is resolved again


def _others_locked(workspace: Workspace, added: Collection[str], registry: Registry) -> bool:
    """Return whether dependencies without a registry are locked from another than this one."""
    lock = _lock(workspace)
    unnamed = {
        dependency.name
        for dependency in workspace.manifest.dependencies
        if dependency.source is None and dependency.name not in added
    }
    modules = lock.module if lock is not None else ()
    return any(
        module.name in unnamed and workspace.registries.match(registry, module) is not Match.FULL
        for module in modules
    )


def _written(option: str, chosen: Location, workspace: Workspace) -> str:
    """Return an address as the manifest has it: a relative path is relative to its folder."""
    is_relative = chosen.alias is None and "://" not in option and not option.startswith("~")
    if workspace.project.is_user or not is_relative or Path(option).is_absolute():
        return chosen.address
    try:
        path = os.path.relpath(chosen.address, workspace.manifest.folder)
    except ValueError:  # another drive
        return chosen.address
    return Path(path).as_posix()


def _unused(wanted: str, used: Collection[str]) -> str:
    """Return an alias like ``wanted`` that is not used."""
    plain = _UNUSUAL.sub("-", wanted).strip("._-")[:90].strip("._-") or "registry"
    number, alias = 1, plain
    while alias == DEFAULT or alias in used:
        number += 1
        alias = f"{plain}-{number}"
    return alias
