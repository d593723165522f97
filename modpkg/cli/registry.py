"""``registry``: where modules come from."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import print_json, table
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.redacted import redacted
from modpkg.environment.workspace import Workspace
from modpkg.manifest.dependencies import DEFAULT
from modpkg.registry.location import Location, alias_location, default_location


class RegistryUse(Struct, frozen=True):
    """A registry, and what comes from it."""

    alias: str
    address: str
    """A URL, with ``***`` in place of secrets, or the absolute path of a folder."""
    origin: str
    """What named it."""
    modules: list[str]
    """The locked modules that come from it."""


class RegistriesDocument(Struct, frozen=True):
    """Where the modules of a project come from."""

    registries: list[RegistryUse]


@click.group("registry")
def registry_command() -> None:
    """Show where modules come from.

    \b
      modpkg registry list
    """


@registry_command.command("list")
@project_options
@with_workspace
def list_registries(workspace: Workspace, as_json: bool) -> None:
    """List the project's registries, what named each, and the locked modules that come from it."""
    manifest, lock = workspace.manifest, workspace.lock
    default = default_location(manifest, workspace.options.registry, lambda: workspace.settings)
    places: dict[str, Location] = {DEFAULT: default}
    for alias in manifest.registries:
        if alias != DEFAULT:
            places[alias] = alias_location(manifest, alias)
    modules: dict[str, list[str]] = {alias: [] for alias in places}
    for module in lock.module if lock is not None else ():
        modules[workspace.registries.alias(module.name)].append(str(module.name))
    locked = workspace.registries.of_lock_alone if modules[DEFAULT] else {}
    rows = [
        RegistryUse(DEFAULT, redacted(address), f"from {LOCK_NAME}", names)
        for address, all_names in locked.items()
        if (names := [name for name in all_names if name in modules[DEFAULT]])
    ]
    told = {name for row in rows for name in row.modules}
    for alias, place in places.items():
        names = [name for name in modules[alias] if alias != DEFAULT or name not in told]
        if names or alias != DEFAULT or not rows:
            rows.append(RegistryUse(alias, redacted(place.address), place.origin, names))
    if as_json:
        print_json(RegistriesDocument(rows))
        return
    table(
        [[row.alias, row.address, row.origin, ", ".join(row.modules) or "-"] for row in rows],
        ["Alias", "Address", "Named", "Modules"],
    )
