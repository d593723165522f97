"""The difference of two locks, in units that can be applied independently."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.bisect.minimize import Units
from modpkg.core.errors import BisectError
from modpkg.core.names import ModuleName, parse_version
from modpkg.environment.plan import VersionChange
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.resolve.need import Candidate, Need, dependencies

Names = frozenset[str]


class LockDiff:
    """The names that differ between two locks of one project, in units that move together.

    A name is *changed* if the locks have different versions of it, or the project's own requirement
    of it differs. A name that only one lock has, and that the project does not require, comes and
    goes with the modules that need it and is not a change by itself. A name is *moved* if it is as
    in the new lock; all others are as in the old one.
    """

    def __init__(
        self,
        old: Lock,
        new: Lock,
        catalog: Catalog,
        roots: Mapping[str, tuple[list[Need], list[Need]]],
    ) -> None:
        """``roots`` has by name the project's own requirements on the old and on the new side."""
        self._catalog = catalog
        self._roots = roots
        self._locked = {module.name: (module, module) for module in (*new.module, *old.module)}
        for module in new.module:
            before = old.find(module.name) or module
            self._locked[module.name] = (before, module)
        self._releases: dict[str, tuple[Release, Release]] = {
            name: (self._release(before), self._release(after))
            for name, (before, after) in self._locked.items()
        }
        self._allowed: dict[tuple[Release, SpecifierSet, Release], bool] = {}
        names = list(dict.fromkeys([*(m.name for m in new.module), *(m.name for m in old.module)]))
        differing = {name for name, sides in roots.items() if _texts(sides[0]) != _texts(sides[1])}
        self.names = [
            name
            for name in names
            if name in differing or self._locked[name][0].version != self._locked[name][1].version
        ]
        """In breadth-first order, as in the new lock."""
        self._changed = frozenset(self.names)
        self.units, self.needs = self._in_units()

    def _release(self, module: LockedModule) -> Release:
        version = parse_version(module.version)
        for release in self._catalog.releases(module.name):
            if release.version == version and release.line.release == module.release:
                return release
        raise BisectError(
            "M795",
            name=module.name,
            version=module.version,
            release=module.release,
            registry=self._catalog.registry(module.name).url,
        )

    # Sides ---------------------------------------------------------------------------------

    def version(self, name: str, *, moved: bool) -> Version:
        """Return the version of a name on one side, or on the only side that has it."""
        return self._releases[name][moved].version

    def versions(self, moved: Iterable[str]) -> dict[str, Version]:
        """Return the version of every name of either lock, with these names moved."""
        after = set(moved)
        return {name: sides[name in after].version for name, sides in self._releases.items()}

    def change(self, name: str) -> VersionChange:
        """Return how a name changed, for display."""
        before, after = self._roots.get(name, ([], []))
        old, new = (str(release.version) for release in self._releases[name])
        if name in self._roots and not (before and after):
            return VersionChange(name, old if before else None, new if after else None)
        return VersionChange(name, old, new)

    def names_of(self, units: Iterable[int]) -> Names:
        """Return the names in units."""
        return frozenset(name for unit in units for name in self.units[unit])

    # Units ---------------------------------------------------------------------------------

    def _in_units(self) -> tuple[list[tuple[str, ...]], list[Units]]:
        """Return the units, and which other units each needs; those come before it."""
        closures = {name: self._closure(name) for name in self.names}
        place = {name: number for number, name in enumerate(self.names)}
        units = {
            tuple(
                other for other in self.names if other in closures[name] and name in closures[other]
            )
            for name in self.names
        }
        order = sorted(units, key=lambda unit: (len(closures[unit[0]]), place[unit[0]]))
        number = {name: at for at, unit in enumerate(order) for name in unit}
        needs = [
            frozenset(number[name] for name in closures[unit[0]]) - {number[unit[0]]}
            for unit in order
        ]
        return order, needs

    def _closure(self, name: str) -> Names:
        """Return the names that have to be moved with one, itself included.

        Names are only added, so this ends; with all of them moved, the mix is the new lock.
        """
        moved = {name}
        while (pair := self._violated(moved)) is not None:
            parents, target = pair
            unmoved = self._changed - moved
            fix = next((other for other in (target, *parents) if other in unmoved), None)
            if fix is None:
                return self._changed
            moved.add(fix)
        return frozenset(moved)

    def _violated(self, moved: set[str]) -> tuple[list[str], str] | None:
        """Return the first requirement that a mix violates: who requires it, and the required name.

        Who requires it comes first, then the path from it to the roots.
        """
        leads: dict[str, str] = {}
        seen: set[tuple[str, str | None]] = set()
        pending = deque(
            need for name, sides in self._roots.items() for need in sides[name in moved]
        )
        while pending:
            need = pending.popleft()
            release = self._releases[need.name][need.name in moved]
            if not self._allows(need, release):
                parents = [need.parent.name] if need.parent is not None else []
                while parents and parents[-1] in leads and leads[parents[-1]] not in parents:
                    parents.append(ModuleName(leads[parents[-1]]))
                return list(map(str, parents)), need.name
            if (need.name, need.extra) in seen:
                continue
            seen.add((need.name, need.extra))
            for further in dependencies(Candidate(release, need.extra)):
                if further.name not in self._releases:
                    return [need.name], need.name
                if further.name != need.name:
                    leads.setdefault(further.name, need.name)
                pending.append(further)
        return None

    def _allows(self, need: Need, release: Release) -> bool:
        if need.parent is None:  # roots and releases are of the same side
            return True
        key = (need.parent, need.specifier, release)
        if key not in self._allowed:
            self._allowed[key] = (
                need.specifier.contains(release.version, prereleases=True)
                and self._catalog.unfit(need.parent, release) is None
            )
        return self._allowed[key]


def _texts(needs: list[Need]) -> list[tuple[str | None, str]]:
    return [(need.extra, str(need.specifier)) for need in needs]
