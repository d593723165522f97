"""The module names that a shell completes: what is installed, locked, or known of registries.

Nothing here uses the network, and whatever cannot be read gives no names: a shell shows no errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modpkg.core.regular_file import read_file

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_MOST = 5_000
"""Names that are offered at most."""


def installed_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the names of the models that are installed and of the modules that are locked."""
    return _fitting(incomplete, _collected([_models, _locked], context))


def locked_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the modules that are locked."""
    return _fitting(incomplete, _collected([_locked], context))


def known_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return names in the lock, in registries that are folders, and in cached indexes."""
    return _fitting(incomplete, _collected([_locked, _in_folders, _in_cache], context))


def names_or_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return known names, or what makes the shell complete files if none fits."""
    from click.shell_completion import CompletionItem

    names = known_names(context, parameter, incomplete) if incomplete[:1] not in (".", "/") else []
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return what makes the shell complete files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _fitting(incomplete: str, names: Iterable[str]) -> list[str]:
    start = incomplete.lower().replace("_", "-").replace(".", "-")
    return [name for name in sorted(set(names)) if name.startswith(start)][:_MOST]


def _collected(
    sources: list[Callable[[click.Context], Iterable[str]]], context: click.Context
) -> list[str]:
    from modpkg.core.errors import ModpkgError

    found: list[str] = []
    for source in sources:
        with suppress(ModpkgError, OSError, ValueError):
            found += source(context)
    return found


def _locked(context: click.Context) -> list[str]:
    from modpkg.environment.project import find_project
    from modpkg.resolve.lock import read_lock

    lock = read_lock(find_project(user=bool(context.params.get("user"))).lock_path)
    return [] if lock is None else [str(module.name) for module in lock.module]


def _models(context: click.Context) -> list[str]:
    from modpkg.environment.generations import Environment
    from modpkg.environment.project import find_project

    project = find_project(user=bool(context.params.get("user")))
    current = Environment(project.environment).readable()
    return [] if current is None else [str(name) for name in current.models]


def _in_folders(context: click.Context) -> list[str]:
    from modpkg.environment.project import find_project
    from modpkg.registry.location import alias_location, default_location

    manifest = find_project(user=bool(context.params.get("user"))).parse()
    places = [
        default_location(manifest, context.params.get("registry")),
        *(alias_location(manifest, alias) for alias in manifest.registries),
    ]
    folders = {place.address.removeprefix("file://") for place in places}
    return [
        name
        for folder in sorted(folders)
        if "://" not in folder
        for name in _index_names(Path(folder) / "index")
    ]


def _in_cache(context: click.Context) -> list[str]:
    from modpkg.core.filenames import REGISTRY_MODULES
    from modpkg.core.home import store_folder
    from modpkg.registry.module_lines import parse_module_lines

    names: list[str] = []
    for site in (store_folder() / "index-cache").glob("*"):
        names += _index_names(site / "index")
        with suppress(OSError):
            names += parse_module_lines(read_file(site / REGISTRY_MODULES), site.name)
    return names


def _index_names(folder: Path) -> list[str]:
    end = ".jsonl"
    with suppress(OSError):
        return [
            entry.name.removesuffix(end)
            for entry in os.scandir(folder)
            if entry.name.endswith(end) and not entry.name.startswith(".")
        ]
    return []
