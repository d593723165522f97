"""The walk: `resolvelib` with our provider, breadth first and newest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from resolvelib import AbstractProvider

from modpkg.core.names import ModuleName
from modpkg.resolve.admission import Admission
from modpkg.resolve.ahead import fetch_ahead
from modpkg.resolve.catalog import Catalog, Release

Identifier = tuple[ModuleName, str | None]
"""A name, or a name and one of its extras."""


class Need(Struct, frozen=True, eq=False):
    """One requirement as the resolver sees it: a name (or one extra of it) in a range."""

    name: ModuleName
    extra: str | None
    specifier: SpecifierSet
    parent: Release | None = None
    """The release that asks; its expected interface has to fit. None for roots."""
    where: str = ""
    """For roots: the file and line it is written in."""
    exact: Version | None = None
    """Set between an extra and its own name: the version that both must have."""


class Candidate(Struct, frozen=True, eq=False):
    """A release, or one extra of it."""

    release: Release
    extra: str | None


class ModuleProvider(AbstractProvider[Need, Candidate, Identifier]):
    """What resolvelib asks of us."""

    def __init__(self, catalog: Catalog, admission: Admission, roots: Sequence[Need]) -> None:
        self._catalog = catalog
        self._admission = admission
        self._order: dict[Identifier, int] = {}
        self._roots = [(root.name, root.extra) for root in roots]
        self._admitted: dict[str, list[Release]] = {}
        for root in self._roots:
            self._visit(root)

    def admitted(self, name: ModuleName) -> list[Release]:
        """Return the releases of a name that may be chosen, best first."""
        if name not in self._admitted:
            self._admitted[name] = self._admission.releases(self._catalog, name)
        return self._admitted[name]

    def fetch_ahead(self) -> None:
        """Fetch the metadata of everything that can be reached from the roots, side by side."""
        fetch_ahead(self._catalog, [name for name, _ in self._roots], deep=True)

    def unfit(self, parent: Release, release: Release) -> str | None:
        """Return why a module cannot act on a release; None if it can."""
        return self._catalog.unfit(parent, release)

    def dependencies(self, candidate: Candidate) -> list[Need]:
        """Return what choosing a candidate asks for."""
        return dependencies(candidate)

    def _visit(self, identifier: Identifier) -> None:
        self._order.setdefault(identifier, len(self._order))

    def identify(self, requirement_or_candidate: Need | Candidate) -> Identifier:
        item = requirement_or_candidate
        if isinstance(item, Need):
            return item.name, item.extra
        return item.release.name, item.extra

    def get_preference(
        self,
        identifier: Identifier,
        resolutions: Mapping[Identifier, Candidate],
        candidates: Mapping[Identifier, Iterator[Candidate]],
        information: Mapping[Identifier, Iterator[Any]],
        backtrack_causes: Sequence[Any],
    ) -> int:
        return self._order[identifier]

    def find_matches(
        self,
        identifier: Identifier,
        requirements: Mapping[Identifier, Iterator[Need]],
        incompatibilities: Mapping[Identifier, Iterator[Candidate]],
    ) -> list[Candidate]:
        name, extra = identifier
        needs = list(requirements[identifier])
        banned = {candidate.release for candidate in incompatibilities[identifier]}
        return [
            candidate
            for release in self.admitted(name)
            if release not in banned
            for candidate in (Candidate(release, extra),)
            if all(self.is_satisfied_by(need, candidate) for need in needs)
        ]

    def is_satisfied_by(self, requirement: Need, candidate: Candidate) -> bool:
        release = candidate.release
        if requirement.exact is not None and release.version != requirement.exact:
            return False
        if not requirement.specifier.contains(release.version, prereleases=True):
            return False
        parent = requirement.parent
        return parent is None or self._catalog.unfit(parent, release) is None

    def get_dependencies(self, candidate: Candidate) -> list[Need]:
        needs = self.dependencies(candidate)
        for need in needs:
            self._visit((need.name, need.extra))
        return needs


def dependencies(candidate: Candidate) -> list[Need]:
    """Return what choosing a candidate asks for, in the order it is written.

    An extra asks for its own name at the same version, and for the extra's modules. An extra that
    the release does not have asks for nothing more: the caller warns.
    """
    release = candidate.release
    if candidate.extra is None:
        requirements = release.requires
        needs: list[Need] = []
    else:
        requirements = release.extras.get(candidate.extra, [])
        needs = [Need(release.name, None, _ANY, release, exact=release.version)]
    for requirement in requirements:
        name, specifier = requirement.name, requirement.specifier
        needs.append(Need(name, None, specifier, release))
        for extra in requirement.extras:
            needs.append(Need(name, extra, specifier, release))
    return needs


_ANY = SpecifierSet()


def root_needs(name: str, extras: Iterable[str], specifier: SpecifierSet, where: str) -> list[Need]:
    """Return the needs that one root requirement stands for."""
    module = ModuleName(name)
    return [
        Need(module, None, specifier, where=where),
        *(Need(module, extra, specifier, where=where) for extra in sorted(extras)),
    ]
