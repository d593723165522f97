"""The search space of both steps: per name its releases, per need the positions that it allows.

The walk and the search ask the provider for the same things; they are computed once here.
"""

from __future__ import annotations

from functools import cached_property
from operator import attrgetter

from modpkg.core.names import ModuleName
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Candidate, Need
from modpkg.resolve.order import Order, ParsedSpecifiers, Runs, intersect, runs_of
from modpkg.resolve.provider import ModuleProvider


class Domain:
    """The admitted releases of one name."""

    def __init__(self, best: list[Release], clauses: ParsedSpecifiers) -> None:
        self.best = best
        """The preferred first."""
        self.ascending = sorted(best, key=attrgetter("place"))
        """By version; a position is an index into this list."""
        self.order = Order(
            [release.version for release in self.ascending],
            clauses,
            [release.line.version for release in self.ascending],
        )

    @cached_property
    def position(self) -> dict[Release, int]:
        return {release: at for at, release in enumerate(self.ascending)}

    @cached_property
    def preference(self) -> list[int]:
        """The positions, the preferred first."""
        if self.best == self.ascending[::-1]:
            return [*range(len(self.best) - 1, -1, -1)]
        return [self.position[release] for release in self.best]

    @cached_property
    def rank(self) -> list[int]:
        """By position, how many releases are preferred to that one."""
        ranks = [0] * len(self.best)
        for rank, at in enumerate(self.preference):
            ranks[at] = rank
        return ranks

    def __len__(self) -> int:
        return len(self.best)


class Space:
    """What a provider allows, in positions."""

    def __init__(self, provider: ModuleProvider) -> None:
        self.provider = provider
        self._bounds = ParsedSpecifiers()
        self._domains: dict[ModuleName, Domain] = {}
        self._fitting: dict[tuple[str, str, ModuleName, Runs], Runs] = {}
        self._needs: dict[tuple[Release, str | None], list[Need]] = {}

    def domain(self, name: ModuleName) -> Domain:
        """Return the releases of a name; none if the name does not exist."""
        domain = self._domains.get(name)
        if domain is None:
            domain = self._domains[name] = Domain(self.provider.admitted(name), self._bounds)
        return domain

    def needs(self, release: Release, extra: str | None, *, kept: bool = True) -> list[Need]:
        """Return the needs of a release, or of one extra of it.

        They are ``kept`` for whoever asks again, or made for this once: of all that can be reached
        they take more memory than anything else.
        """
        key = release, extra
        needs = self._needs.get(key)
        if needs is None:
            needs = self.provider.dependencies(Candidate(release, extra))
            if kept:
                self._needs[key] = needs
        return needs

    def allowed(self, need: Need) -> Runs:
        """Return the positions of the releases that satisfy a need."""
        domain = self._domains.get(need.name) or self.domain(need.name)
        runs = domain.order.runs(need.specifier)
        if need.exact is not None:
            runs = intersect(runs, self._exactly(domain, need))
        parent = need.parent
        if parent is None or not runs:
            return runs
        expects = parent.line.expects.get(need.name)
        if expects is None:
            return runs
        key = parent.registry.url, expects, need.name, runs
        if key not in self._fitting:
            self._fitting[key] = runs_of(
                at
                for low, high in runs
                for at in range(low, high)
                if self.provider.unfit(parent, domain.ascending[at]) is None
            )
        return self._fitting[key]

    def _exactly(self, domain: Domain, need: Need) -> Runs:
        if need.parent is not None and need.parent in domain.position:
            at = domain.position[need.parent]
            if domain.ascending[at].version == need.exact:
                return ((at, at + 1),)
        return runs_of(
            at for at, release in enumerate(domain.ascending) if release.version == need.exact
        )
