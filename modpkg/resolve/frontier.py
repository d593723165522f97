"""The frontier: what is chosen so far, breadth first, and what the choices ask of the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from resolvelib.resolvers import Criterion, RequirementInformation, ResolverException, Result
from resolvelib.structs import DirectedGraph

from modpkg.core.names import ModuleName
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.order import Runs, both, within
from modpkg.resolve.space import Space


class Conflict(ResolverException):
    """A need that cannot be met, given the choices so far."""


class Frontier:
    """The answer as it grows.

    Invariants: every need of every pinned candidate has been cut into ``allowed``; every pinned
    release lies in its name's ``allowed``; no ``allowed`` is empty; ``pending`` holds what is asked
    for and not yet visited, in the order in which it was first asked for.
    """

    def __init__(self, space: Space, roots: Sequence[Need]) -> None:
        self.space = space
        self.pinned: dict[ModuleName, Release] = {}
        self.allowed: dict[ModuleName, Runs] = {}
        self.pending: deque[Identifier] = deque()
        self.mapping: dict[Identifier, Candidate] = {}
        self._asked: dict[Identifier, list[RequirementInformation[Need, Candidate]]] = {}
        self._graph: DirectedGraph[Identifier | None] = DirectedGraph()
        self._graph.add(None)
        self._take(None, None, roots)

    def viable(self, name: ModuleName, extra: str | None) -> Iterator[int]:
        """Yield the positions that nothing chosen so far rules out, best first.

        One is ruled out when a choice's need does not allow it, or when one of its own needs
        leaves a name without any release. Choices are final, so what they rule out stays out.
        """
        domain = self.space.domain(name)
        runs = self.allowed[name]
        for at in domain.preference:
            if within(at, runs):
                needs = self._needs(domain.ascending[at], extra)
                if self._cut(needs, name, at) is not None:
                    yield at

    def pin(self, name: ModuleName, extra: str | None, release: Release) -> None:
        """Choose a release, or one extra of the release that is chosen already.

        Raises:
            Conflict: its needs cannot be met.
        """
        self.pinned[name] = release
        candidate = Candidate(release, extra)
        self.mapping[name, extra] = candidate
        self._take(candidate, (name, extra), self._needs(release, extra))

    def _needs(self, release: Release, extra: str | None) -> list[Need]:
        return self.space.needs(release, extra)

    def _cut(
        self, needs: Sequence[Need], name: ModuleName | None = None, at: int | None = None
    ) -> dict[ModuleName, Runs] | None:
        """Return what the needs leave of each name they ask for; None when nothing is left."""
        cut: dict[ModuleName, Runs] = {}
        for need in needs:
            runs = self.space.allowed(need)
            other = need.name
            before = cut.get(other, self.allowed.get(other))
            if before is not None:
                runs = both(before, runs)
            if not runs:
                return None
            if other == name and at is not None:
                if not within(at, runs):
                    return None
            elif other in self.pinned:
                chosen = self.space.domain(other).position[self.pinned[other]]
                if not within(chosen, runs):
                    return None
            cut[other] = runs
        return cut

    def _take(
        self, candidate: Candidate | None, parent: Identifier | None, needs: Sequence[Need]
    ) -> None:
        cut = self._cut(needs)
        if cut is None:
            raise Conflict
        self.allowed.update(cut)
        for need in needs:
            wanted = need.identifier
            if wanted not in self._asked:
                self._asked[wanted] = []
                self.pending.append(wanted)
                self._graph.add(wanted)
            self._asked[wanted].append(RequirementInformation(need, candidate))
            self._graph.connect(parent, wanted)

    def result(self) -> Result[Need, Candidate, Identifier]:
        """Return the answer as resolvelib's own engine does."""
        criteria: dict[Identifier, Any] = {
            wanted: Criterion([self.mapping[wanted]], asked, [])
            for wanted, asked in self._asked.items()
        }
        return Result(dict(self.mapping), self._graph, criteria)
