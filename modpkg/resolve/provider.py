"""The provider: needs and candidates behind resolvelib's interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resolvelib import AbstractProvider

from modpkg.core.names import ModuleName
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Identifier, Need, dependencies
from modpkg.resolve.prefetch import prefetch


class ModuleProvider(AbstractProvider[Need, Candidate, Identifier]):
    """What the engines, ours and resolvelib's, ask for."""

    def __init__(self, catalog: Catalog, admission: Admission, roots: Sequence[Need]) -> None:
        self._catalog = catalog
        self._admission = admission
        self._order: dict[Identifier, int] = {}
        self._roots = [(root.name, root.extra) for root in roots]
        self._admitted: dict[str, list[Release]] = {}
        for root in self._roots:
            self._visit(root)

    def admitted(self, name: ModuleName) -> list[Release]:
        """Return the admitted releases of a name, the preferred first."""
        if name not in self._admitted:
            self._admitted[name] = self._admission.releases(self._catalog, name)
        return self._admitted[name]

    def prefetch(self) -> None:
        """Fetch the index files of everything that the roots may require, concurrently."""
        prefetch(self._catalog, [name for name, _ in self._roots], deep=True)

    def unfit(self, parent: Release, release: Release) -> str | None:
        """Return why a module does not fit a release; None if it does."""
        return self._catalog.unfit(parent, release)

    def dependencies(self, candidate: Candidate) -> list[Need]:
        """Return what choosing a candidate requires."""
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
