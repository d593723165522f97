"""What looking after a registry has in common: opening just that one, and what it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.specifiers import SpecifierSet

from modpkg.core.errors import RegistryError
from modpkg.core.names import parse_requirement
from modpkg.core.records import IndexLine
from modpkg.manifest.config import Settings
from modpkg.registry.allowance import Allowance
from modpkg.registry.missing import no_such_module
from modpkg.registry.open_source import open_configured
from modpkg.registry.reader import Registry

AT_ONCE = 16
"""Small files that are read at the same time."""


def open_alone(
    address: str, settings: Settings, warn: Callable[[str], None] | None = None
) -> Registry:
    """Return the registry at an address itself: neither copies nor mirrors of its files are read.

    Raises:
        RegistryError: It cannot be the address of a registry.
    """
    allowance = Allowance(address, settings.limits)
    source = open_configured(address, Path.cwd(), settings, allowance)
    registry = Registry(address, source=source, warn=warn)
    registry.allowance = allowance
    return registry


def all_names(registry: Registry) -> list[str]:
    """Return the names of all modules of a registry, sorted: those that are signed are among them.

    Raises:
        RegistryError: They cannot be known.
        TrustError: The registry is signed, and what says so is not what it has to be.
    """
    names = registry.names()
    if names is None:
        modules = registry.modules()
        if modules is None:
            raise RegistryError("M870", registry=registry.shown)
        names = sorted(modules)
    _ = registry.info  # raises if this is not a registry
    if (checks := registry.files.checks) is not None:
        names = sorted({*names, *(checks.names() or [])})  # none is kept back from a copy
    fetch_indexes(registry, names)
    return names


def fetch_indexes(registry: Registry, names: Iterable[str]) -> None:
    """Fetch the index files of modules at the same time; `Registry.index` tells what fails."""
    if registry.folder is None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name in names:
                registry.prefetch(name, pool)


def needed_releases(registry: Registry, requirements: Sequence[str]) -> dict[str, list[IndexLine]]:
    """Return the releases in the range of requirements, and those that any of them may need.

    By name; of what is required, extras included, that is every release in a range that a release
    before has for it. What the registry does not have of that is left out.

    Raises:
        NotFound: The registry does not have a release in the range of a requirement.
        RegistryError: What a command may take from the registry is spent.
    """
    found: dict[str, dict[str, IndexLine]] = {}
    seen: set[tuple[str, str]] = set()
    wave = {_named(text) for text in requirements}
    for name, specifier in wave:
        if not registry.index(name):
            raise no_such_module(name, registry)
        if not _in_range(registry, name, specifier):
            raise registry.not_found(name, specifier)
    while wave:
        seen |= wave
        fetch_indexes(registry, {name for name, _ in wave})
        needed: set[tuple[str, str]] = set()
        for name, specifier in wave:
            for line in _in_range(registry, name, specifier):
                if line.version not in found.setdefault(name, {}):
                    found[name][line.version] = line
                    extras = (text for texts in line.extras.values() for text in texts)
                    needed |= {_named(text) for text in (*line.requires, *extras)}
        wave = needed - seen
    return {name: [*lines.values()] for name, lines in found.items() if lines}


def _named(text: str) -> tuple[str, str]:
    requirement = parse_requirement(text)
    return requirement.name, str(requirement.specifier)


def _in_range(registry: Registry, name: str, specifier: str) -> list[IndexLine]:
    allowed = SpecifierSet(specifier)
    lines = registry.resolved_index(name)
    registry.allowance.spend("releases", len(lines), f"{name}{specifier}", counter="looked at")
    return [line for line in lines if allowed.contains(line.version, prereleases=True)]
