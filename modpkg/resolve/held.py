"""Which locked names are held at their version, so that as little as possible changes.

A name *moves* if it is needed and cannot stay at a locked version: it is new, or to be upgraded, or
its locked version is excluded or out of a root's range. What it may require, at any depth, moves
with it; every other locked name is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modpkg.core.names import ModuleName
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Identifier, Need, dependencies
from modpkg.resolve.prefetch import prefetch_names


def held_names(roots: Sequence[Need], catalog: Catalog, admission: Admission) -> frozenset[str]:
    """Return the names that locked versions lead to from the roots, and that do not move."""
    held: set[ModuleName] = set()
    moving: set[ModuleName] = set()
    seen: set[Identifier] = set()
    pending = [root.identifier for root in roots]
    while pending:
        name, extra = identifier = pending.pop()
        if identifier in seen:
            continue
        seen.add(identifier)
        release = admission.locked_release(catalog, name)
        if release is None:
            moving.add(name)
        else:
            held.add(name)
            pending += [need.identifier for need in dependencies(Candidate(release, extra))]
    wave = moving
    while wave and not held <= moving:
        prefetch_names(catalog, wave)
        wave = {
            other
            for name in wave
            for release in admission.releases(catalog, name)
            for other in _needed(release)
        } - moving
        moving |= wave
    return frozenset(held - moving)


def _needed(release: Release) -> Iterator[ModuleName]:
    """Yield the names that a release and its extras require."""
    for group in (release.requires, *release.extras.values()):
        for requirement in group:
            yield ModuleName(requirement.name)
