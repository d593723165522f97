"""The frontier: the choices so far, breadth first, and what they require of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from resolvelib.resolvers import Criterion, RequirementInformation, ResolverException, Result
from resolvelib.structs import DirectedGraph

from modpkg.core.names import ModuleName
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.order import Runs, intersect, within
from modpkg.resolve.space import Space


class Conflict(ResolverException):
    """A need cannot be met, given the choices so far."""


class Mark(Struct, frozen=True):
    """A state of a frontier to go back to: how much of each of its lists there was."""

    changes: int
    pending: int
    waiting: int
    visited: int
    waited: int


class Frontier:
    """A partial solution, of which the last choices can be taken back.

    Invariants: ``allowed`` satisfies every need of every pinned candidate; every pinned release is
    in its name's ``allowed``; no ``allowed`` is empty; what is required and not yet visited is in
    ``pending`` from ``visited`` on, or in ``waiting`` from ``waited`` on if it is visited after all
    of that, in the order in which it was first required; ``expecting`` has the pinned releases that
    expect something of a name.
    """

    def __init__(self, space: Space, roots: Sequence[Need]) -> None:
        self.space = space
        self.pinned: dict[ModuleName, Release] = {}
        self.allowed: dict[ModuleName, Runs] = {}
        self.expecting: dict[ModuleName, dict[Release, None]] = {}
        self.mapping: dict[Identifier, Candidate] = {}
        self._roots = roots
        self._pending: list[Identifier] = []
        self._waiting: list[Identifier] = []
        self._visited = self._waited = 0
        self._required: set[Identifier] = set()
        self._changes: list[tuple[dict[Any, Any], Any, Any]] = []
        """What was changed since the last `settle`: a table, a key, and its value before."""
        self._left: tuple[Release, str | None, dict[ModuleName, Runs]] | None = None
        """The last of `viable`, and what its needs leave of each name, until something changes."""
        allowed = self._intersected(roots)
        if allowed is None:
            raise Conflict
        self._require(roots, allowed)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to choose a release for."""
        return self._visited == len(self._pending) and self._waited == len(self._waiting)

    def next(self) -> Identifier:
        """Return what to choose a release for next; it is not `finished`."""
        if self._visited < len(self._pending):
            self._visited += 1
            return self._pending[self._visited - 1]
        self._waited += 1
        return self._waiting[self._waited - 1]

    def visit(self) -> Iterator[Identifier]:
        """Yield what to choose a release for next, until there is nothing left."""
        while not self.finished:
            yield self.next()

    def mark(self) -> Mark:
        """Return the state to go back to, until the next `settle`."""
        return Mark(
            len(self._changes),
            len(self._pending),
            len(self._waiting),
            self._visited,
            self._waited,
        )

    def back(self, mark: Mark) -> None:
        """Take back what was chosen and visited since a mark."""
        self._left = None
        changes = self._changes
        while len(changes) > mark.changes:
            table, key, before = changes.pop()
            if before is None:
                del table[key]
            else:
                table[key] = before
        for queue, length in ((self._pending, mark.pending), (self._waiting, mark.waiting)):
            self._required.difference_update(queue[length:])
            del queue[length:]
        self._visited, self._waited = mark.visited, mark.waited

    def settle(self) -> None:
        """Make all choices so far final."""
        self._changes.clear()

    def preferred(self, name: ModuleName) -> Iterator[int]:
        """Yield the allowed positions of a name, best first."""
        domain = self.space.domain(name)
        runs = self.allowed[name]
        if len(runs) == 1:
            ((low, high),) = runs
            allowed = (at for at in domain.preference if low <= at < high)
        else:
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
            release = domain.ascending[at]
            allowed = self._intersected(self._needs(release, extra), name, at)
            if allowed is not None:
                self._left = release, extra, allowed
                yield at

    def pin(self, name: ModuleName, extra: str | None, release: Release) -> None:
        """Choose a release, or one extra of a release that is chosen already.

        Raises:
            Conflict: Its needs cannot be met.
        """
        needs = self._needs(release, extra)
        left = self._left
        if left is not None and left[0] is release and left[1] == extra:
            allowed: dict[ModuleName, Runs] | None = left[2]
        else:
            allowed = self._intersected(needs, name, self.space.domain(name).position[release])
        if allowed is None:
            raise Conflict
        self._set(self.pinned, name, release)
        self._set(self.mapping, (name, extra), Candidate(release, extra))
        self._require(needs, allowed)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._changes.append((table, key, table.get(key)))
        table[key] = value

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

    def _require(self, needs: Sequence[Need], allowed: Mapping[ModuleName, Runs]) -> None:
        self._left = None
        for name, runs in allowed.items():
            self._set(self.allowed, name, runs)
        for need in needs:
            wanted = need.identifier
            if wanted not in self._required:
                self._required.add(wanted)
                waits = self.space.provider.waits(need.name)
                (self._waiting if waits else self._pending).append(wanted)
            if need.parent is not None and need.name in need.parent.line.expects:
                self._expect(need.name, need.parent)

    def _expect(self, name: ModuleName, parent: Release) -> None:
        expecting = self.expecting.setdefault(name, {})
        if parent not in expecting:
            self._set(expecting, parent, None)

    def result(self) -> Result[Need, Candidate, Identifier]:
        """Return the solution as resolvelib's own engine does."""
        graph: DirectedGraph[Identifier | None] = DirectedGraph()
        graph.add(None)
        required: dict[Identifier, list[RequirementInformation[Need, Candidate]]] = {}
        needing: list[tuple[Identifier | None, Candidate | None, Sequence[Need]]]
        needing = [(None, None, self._roots)]
        for wanted, candidate in self.mapping.items():
            needing.append((wanted, candidate, self._needs(candidate.release, candidate.extra)))
        for parent, owner, needs in needing:
            for need in needs:
                wanted = need.identifier
                if wanted not in required:
                    required[wanted] = []
                    graph.add(wanted)
                required[wanted].append(RequirementInformation(need, owner))
                graph.connect(parent, wanted)
        criteria: dict[Identifier, Any] = {
            wanted: Criterion([self.mapping[wanted]], causes, [])
            for wanted, causes in required.items()
        }
        return Result(dict(self.mapping), graph, criteria)
