"""Which names of the earlier lock are held at their version: change as little as possible.

A name *moves* when it is needed and there is no locked version of it that it could keep: it is new,
or to be upgraded, or its locked version is not admitted any more or out of a root's range. What
moves may take along what it needs, at any depth; every other name of the lock is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modpkg.core.names import ModuleName
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Need, dependencies


def held_names(roots: Sequence[Need], catalog: Catalog, admission: Admission) -> frozenset[str]:
    """Return the names that are reached from the roots over locked versions, and do not move."""
    held: set[str] = set()
    moving: set[str] = set()
    seen: set[tuple[str, str | None]] = set()
    pending: list[tuple[ModuleName, str | None, bool]] = [
        (root.name, root.extra, False) for root in roots
    ]
    while pending:
        name, extra, moves = pending.pop()
        if name in moving:
            continue
        release = None if moves else admission.kept(catalog, name)
        if release is None:
            moving.add(name)
            pending += [
                (other, None, True)
                for release in admission.releases(catalog, name)
                for other in _needed(release)
                if other not in moving
            ]
        elif (name, extra) not in seen:
            seen.add((name, extra))
            held.add(name)
            pending += [
                (need.name, need.extra, False) for need in dependencies(Candidate(release, extra))
            ]
    return frozenset(held - moving)


def _needed(release: Release) -> Iterator[ModuleName]:
    """Yield the names that a release may need, those of its extras among them."""
    for group in (release.requires, *release.extras.values()):
        for requirement in group:
            yield ModuleName(requirement.name)
