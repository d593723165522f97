"""The provider: needs and candidates behind resolvelib's interface."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from resolvelib import AbstractProvider

from modpkg.core.names import ModuleName
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Identifier, Need, dependencies

_PROVIDED = attrgetter("line.provides")
"""The digest of the interface of a release, which is never empty; None for none."""


class ModuleProvider(AbstractProvider[Need, Candidate, Identifier]):
    """What the engines, ours and resolvelib's, ask for."""

    def __init__(self, catalog: Catalog, admission: Admission, roots: Sequence[Need]) -> None:
        self.catalog = catalog
        self.admission = admission
        self._order: dict[Identifier, int] = {}
        self._provides: dict[str, bool] = {}
        self._admitted: dict[str, list[Release]] = {}
        for root in roots:
            self._visit((root.name, root.extra))

    def admitted(self, name: ModuleName) -> list[Release]:
        """Return the admitted releases of a name, the preferred first."""
        if name not in self._admitted:
            self._admitted[name] = self.admission.releases(self.catalog, name)
        return self._admitted[name]

    @property
    def is_remote(self) -> bool:
        """Whether there is something to fetch ahead."""
        return not self.catalog.is_local

    def unfit(self, parent: Release, release: Release) -> str | None:
        """Return why a module may not act on a release; None if it may."""
        return self.admission.unfit(self.catalog, parent, release)

    def waits(self, name: ModuleName) -> bool:
        """Return whether a name is visited after all others: the bases that modules fit."""
        if name not in self._provides:
            self._provides[name] = self.admission.prefers_exact and any(
                map(_PROVIDED, self.admitted(name))
            )
        return self._provides[name]

    def preferred(
        self, releases: Iterable[Release], parents: Collection[Release]
    ) -> Iterator[Release]:
        """Yield admitted releases of one name, the preferred first.

        The locked one comes first. Of the final releases, and then of the pre-releases, those come
        first on which the fewest of ``parents`` drift.
        """
        for _, group in itertools.groupby(releases, self.admission.rank):
            yield from self._fewest_drifts(list(group), parents)

    def _fewest_drifts(
        self, releases: list[Release], parents: Collection[Release]
    ) -> Iterator[Release]:
        if len(releases) == 1 or not self.admission.prefers_exact:
            yield from releases
            return
        drifting: list[tuple[int, Release]] = []
        for release in releases:
            count = sum(self.catalog.drift(parent, release) is not None for parent in parents)
            if count:
                drifting.append((count, release))
            else:
                yield release
        yield from (release for _, release in sorted(drifting, key=lambda item: item[0]))

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
    ) -> tuple[bool, int]:
        return self.waits(identifier[0]), self._order[identifier]

    def find_matches(
        self,
        identifier: Identifier,
        requirements: Mapping[Identifier, Iterator[Need]],
        incompatibilities: Mapping[Identifier, Iterator[Candidate]],
    ) -> list[Candidate]:
        name, extra = identifier
        needs = list(requirements[identifier])
        banned = {candidate.release for candidate in incompatibilities[identifier]}
        parents = dict.fromkeys(
            need.parent for need in needs if need.parent and name in need.parent.line.expects
        )
        releases = [
            release
            for release in self.admitted(name)
            if release not in banned
            and all(self.is_satisfied_by(need, Candidate(release, extra)) for need in needs)
        ]
        return [Candidate(release, extra) for release in self.preferred(releases, parents)]

    def is_satisfied_by(self, requirement: Need, candidate: Candidate) -> bool:
        release = candidate.release
        if requirement.exact is not None and release.version != requirement.exact:
            return False
        if not requirement.specifier.contains(release.version, prereleases=True):
            return False
        parent = requirement.parent
        return parent is None or self.unfit(parent, release) is None

    def get_dependencies(self, candidate: Candidate) -> list[Need]:
        needs = self.dependencies(candidate)
        for need in needs:
            self._visit((need.name, need.extra))
        return needs
