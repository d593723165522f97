"""From which registry a name comes that only other modules require: from theirs.

What a dependency with a registry of its own requires comes from that registry too, where it has the
name, and so on at any depth; all else comes from the default registry. Which registry that is does
not depend on the versions that are chosen: every release of a name counts. A name that two
registries could be asked for, since both have it and modules of both require it, is asked of
neither until the manifest says which is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum

from msgspec import Struct

from modpkg.core.errors import ModpkgError, RegistryError
from modpkg.core.names import read_requirement
from modpkg.core.records import IndexLine
from modpkg.manifest.dependencies import DEFAULT
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedModule


class Match(Enum):
    """How far a registry is the one that a module is locked from."""

    NONE = 0
    NAME = 1
    """It has the name, at another address: it moved, or is a copy, or took the name."""
    FULL = 2


class Claims(Struct, frozen=True):
    """Which registry the names come from that only other modules require."""

    chosen: dict[str, str]
    """Alias by name."""
    contested: dict[str, ModpkgError]
    """By name, the error of one that several registries could be asked for."""
    borrowed: dict[str, tuple[str, str]]
    """By name that its registry lacks, and that so comes from the default one: the alias of the
    registry of a module that requires it, and that module."""
    settled: dict[str, tuple[str, str]] = {}
    """By name that only the lock keeps from being contested: its alias, and another that has it."""


Open = Callable[[str], Registry]
"""Returns the registry of an alias."""
Matching = Callable[[str, LockedModule], Match]
"""Returns how far the registry of an alias is a locked module's."""


def inherited_of_lock(
    lock: Lock, direct: Mapping[str, str | None], matching: Matching
) -> dict[str, str]:
    """Return the alias of each locked module that the manifest does not name.

    It is the one whose registry has the name and address that the lock records, or else the name.
    The alias of the module that requires it is tried first; what none has keeps the default.

    Args:
        lock: The lock.
        direct: The alias of each dependency of the manifest; None for a model of a hub, which
            requires nothing but other dependencies of the manifest.
        matching: Compares a registry with what is locked.
    """
    aliases = sorted({alias for alias in direct.values() if alias is not None} - {DEFAULT})
    found: dict[str, str] = {}
    queue = list(direct) if aliases else []
    for name in queue:
        own = direct.get(name) or found.get(name, DEFAULT)
        module = lock.find(name)
        for wanted in _names(module.requires) if module is not None else ():
            locked = lock.find(wanted)
            if locked is None or wanted in direct or wanted in found:
                continue
            tried = (own, *(alias for alias in (*aliases, DEFAULT) if alias != own))
            found[wanted] = next(iter(_best(tried, locked, matching)), DEFAULT)
            queue.append(wanted)
    for module in lock.module if aliases else ():  # what an extra requires
        if module.name not in direct and module.name not in found:
            best = _best((*aliases, DEFAULT), module, matching)
            found[module.name] = next(iter(best), DEFAULT)
    return found


def _best(tried: Iterable[str], module: LockedModule, matching: Matching) -> list[str]:
    """Return the alias that is a module's own; or all of those whose registries have its name."""
    named = []
    for alias in tried:
        match = matching(alias, module)
        if match is Match.FULL:
            return [alias]
        if match is Match.NAME:
            named.append(alias)
    return named


def inherited(
    direct: Mapping[str, str | None],
    open_: Open,
    kept: Mapping[str, LockedModule],
    matching: Matching,
) -> Claims:
    """Return which registries the names come from that the dependencies require.

    Args:
        direct: The alias of each dependency of the manifest; None for a model of a hub, which
            requires nothing but other dependencies of the manifest.
        open_: Opens a registry.
        kept: Modules that are locked: their registry is kept where it can be.
        matching: Compares a registry with what is locked.

    Raises:
        ModpkgError: The registry of a dependency cannot be read.
    """
    claims: dict[str, dict[str, str]] = {}
    lacking: dict[str, tuple[str, str]] = {}
    for alias in sorted({alias for alias in direct.values() if alias is not None} - {DEFAULT}):
        roots = [name for name, own in direct.items() if own == alias]
        for parent, name, has in _reached(open_(alias), roots, direct):
            if has:
                claims.setdefault(name, {}).setdefault(alias, parent)
            else:
                lacking.setdefault(name, (alias, parent))
    borrowed = {name: who for name, who in lacking.items() if name not in claims}
    if not claims and not borrowed:
        return Claims({}, {}, {})
    roots = [name for name, own in direct.items() if own == DEFAULT]
    try:
        for _, name, _ in _reached(open_(DEFAULT), roots, direct) if borrowed else ():
            borrowed.pop(name, None)  # it is the default's own
        lacked = [name for name in lacking if name not in claims]
        for parent, name, has in _reached(open_(DEFAULT), [*roots, *lacked], direct):
            if has and name in claims:
                claims[name][DEFAULT] = parent
    except ModpkgError:  # the resolver tells it, if it needs that registry
        pass
    chosen: dict[str, str] = {}
    contested: dict[str, ModpkgError] = {}
    settled: dict[str, tuple[str, str]] = {}
    for name, claim in claims.items():
        before = kept.get(name)
        again = _best(dict.fromkeys((*claim, DEFAULT)), before, matching) if before else []
        is_rivalled = len({open_(alias).url for alias in claim}) > 1
        if len(again) == 1:
            chosen[name] = again[0]
            if is_rivalled:
                settled[name] = again[0], next(alias for alias in claim if alias != again[0])
        elif not is_rivalled:
            chosen[name] = next(iter(claim))
        else:
            contested[name] = _contested(name, claim, open_)
    return Claims(chosen, contested, borrowed, settled)


def _reached(
    registry: Registry, roots: list[str], direct: Mapping[str, str | None]
) -> Iterator[tuple[str, str, bool]]:
    """Yield who requires which other name in a registry, and whether it has that.

    What the manifest names is left out. The index files of a remote registry are fetched together,
    and counted as those are that the resolver asks for.

    Raises:
        RegistryError: What the command may take from the registry is spent.
    """
    wave, seen = list(roots), {*roots, *direct}
    _fetch(registry, wave)
    while wave:
        asked: dict[str, str] = {}
        for name in wave:
            for line in registry.resolved_index(name):
                for wanted in _names(_texts(line)):
                    if wanted not in seen:
                        seen.add(wanted)
                        asked[wanted] = name
            registry.allowance.spend_if_over("names", len(seen), f"index/{name}.jsonl")
        _fetch(registry, asked)
        wave = []
        for wanted, parent in asked.items():
            has = registry.knows(wanted)
            yield parent, wanted, has
            if has:
                wave.append(wanted)


def _fetch(registry: Registry, names: Iterable[str]) -> None:
    """Fetch index files at the same time; `Registry.index` tells what fails."""
    if registry.folder is None:
        with fetch_pool() as pool:
            for name in names:
                registry.prefetch(name, pool)


def _texts(line: IndexLine) -> list[str]:
    return [*line.requires, *(text for texts in line.extras.values() for text in texts)]


def _names(requires: list[str]) -> list[str]:
    return [str(read_requirement(text).name) for text in requires]


def _contested(name: str, claim: Mapping[str, str], open_: Open) -> RegistryError:
    (one, by), (other, also) = sorted(claim.items(), key=lambda item: item[0] != DEFAULT)[:2]
    places = {alias: open_(alias).url for alias in (one, other)}
    why = (
        f"is required by {by}, of the registry {places[one]}, and by {also}, of {places[other]}, "
        "and both registries have it"
    )
    return contested_error(name, why, (one, other))


def contested_error(name: str, why: str, aliases: tuple[str, str]) -> RegistryError:
    """Return the error for a name that two registries have; ``why`` says so, as a predicate."""
    commands = [f"'modpkg install {name} --registry {alias}'" for alias in aliases]
    return RegistryError("M319", name=name, why=why, commands=" or ".join(commands))
