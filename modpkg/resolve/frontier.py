"""The frontier: the choices so far, breadth first, and what they require of the rest."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from resolvelib.resolvers import Criterion, RequirementInformation, ResolverException, Result
from resolvelib.structs import DirectedGraph

from modpkg.core.names import ModuleName
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.order import Runs, intersect, within
from modpkg.resolve.space import Space


class Conflict(ResolverException):
    """A need cannot be met, given the choices so far."""


class Frontier:
    """A partial solution.

    Invariants: ``allowed`` satisfies every need of every pinned candidate; every pinned release is
    in its name's ``allowed``; no ``allowed`` is empty; what is required and not yet visited is in
    ``pending``, or in ``waiting`` if it is visited after all of that, in the order in which it was
    first required; ``expecting`` has the pinned releases that expect something of a name.
    """

    def __init__(self, space: Space, roots: Sequence[Need]) -> None:
        self.space = space
        self.pinned: dict[ModuleName, Release] = {}
        self.allowed: dict[ModuleName, Runs] = {}
        self.pending: deque[Identifier] = deque()
        self.waiting: deque[Identifier] = deque()
        self.expecting: dict[ModuleName, dict[Release, None]] = {}
        self.mapping: dict[Identifier, Candidate] = {}
        self._required: dict[Identifier, list[RequirementInformation[Need, Candidate]]] = {}
        self._graph: DirectedGraph[Identifier | None] = DirectedGraph()
        self._graph.add(None)
        self._require(None, None, roots)

    def unvisited(self) -> Iterator[Identifier]:
        """Yield what is required and not yet visited, as far as it is known, in order."""
        return itertools.chain(self.pending, self.waiting)

    def visit(self) -> Iterator[Identifier]:
        """Yield what to choose a release for next, until there is nothing left."""
        while self.pending or self.waiting:
            yield (self.pending or self.waiting).popleft()

    def preferred(self, name: ModuleName) -> Iterator[int]:
        """Yield the allowed positions of a name, best first."""
        domain = self.space.domain(name)
        runs = self.allowed[name]
        allowed = (at for at in domain.preference if within(at, runs))
        expecting = self.expecting.get(name)
        if not expecting:
            return allowed
        releases = self.space.provider.preferred(
            [domain.ascending[at] for at in allowed], expecting
        )
        return (domain.position[release] for release in releases)

    def viable(self, name: ModuleName, extra: str | None) -> Iterator[int]:
        """Yield the positions that no choice so far rules out, best first.

        One is ruled out if a choice's need does not allow it, or if one of its own needs leaves a
        name without any release. Choices are final, so this stays true.
        """
        domain = self.space.domain(name)
        for at in self.preferred(name):
            needs = self._needs(domain.ascending[at], extra)
            if self._intersected(needs, name, at) is not None:
                yield at

    def pin(self, name: ModuleName, extra: str | None, release: Release) -> None:
        """Choose a release, or one extra of a release that is chosen already.

        Raises:
            Conflict: Its needs cannot be met.
        """
        self.pinned[name] = release
        candidate = Candidate(release, extra)
        self.mapping[name, extra] = candidate
        self._require(candidate, (name, extra), self._needs(release, extra))

    def _needs(self, release: Release, extra: str | None) -> list[Need]:
        return self.space.needs(release, extra)

    def _intersected(
        self, needs: Sequence[Need], name: ModuleName | None = None, at: int | None = None
    ) -> dict[ModuleName, Runs] | None:
        """Return what needs leave of each name; None if they leave nothing of one."""
        allowed: dict[ModuleName, Runs] = {}
        for need in needs:
            runs = self.space.allowed(need)
            other = need.name
            before = allowed.get(other, self.allowed.get(other))
            if before is not None:
                runs = intersect(before, runs)
            if not runs:
                return None
            if other == name and at is not None:
                if not within(at, runs):
                    return None
            elif other in self.pinned:
                chosen = self.space.domain(other).position[self.pinned[other]]
                if not within(chosen, runs):
                    return None
            allowed[other] = runs
        return allowed

    def _require(
        self, candidate: Candidate | None, parent: Identifier | None, needs: Sequence[Need]
    ) -> None:
        allowed = self._intersected(needs)
        if allowed is None:
            raise Conflict
        self.allowed.update(allowed)
        for need in needs:
            wanted = need.identifier
            if wanted not in self._required:
                self._required[wanted] = []
                waits = self.space.provider.waits(need.name)
                (self.waiting if waits else self.pending).append(wanted)
                self._graph.add(wanted)
            self._required[wanted].append(RequirementInformation(need, candidate))
            self._graph.connect(parent, wanted)
            if need.parent is not None and need.name in need.parent.line.expects:
                self.expecting.setdefault(need.name, {})[need.parent] = None

    def result(self) -> Result[Need, Candidate, Identifier]:
        """Return the solution as resolvelib's own engine does."""
        criteria: dict[Identifier, Any] = {
            wanted: Criterion([self.mapping[wanted]], required, [])
            for wanted, required in self._required.items()
        }
        return Result(dict(self.mapping), self._graph, criteria)
