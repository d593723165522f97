"""The walk: breadth first and best first, in one pass without backtracking.

As long as nothing conflicts, it visits and chooses as `resolvelib.Resolver` does with our provider,
behind the same interface. That copies its whole state at each step to be able to backtrack: on a
chain of 5,000 names, some 25 million entries. The walk raises `Conflict` at the first name that has
nothing left to choose, and the search takes over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from resolvelib import AbstractResolver
from resolvelib.resolvers import ResolverException, Result

from modpkg.resolve.frontier import Conflict, Frontier
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.space import Space


class Walk(AbstractResolver[Need, Candidate, Identifier]):
    """The first step. If it has a solution, that is the preferred one.

    Each name gets the best release that the choices before it do not rule out. If a better one were
    part of a solution with the same choices before it, they would not rule it out.
    """

    base_exception = ResolverException

    def __init__(self, space: Space, reporter: Any) -> None:
        super().__init__(space.provider, reporter)
        self._space = space

    def resolve(
        self, requirements: Iterable[Need], **_: Any
    ) -> Result[Need, Candidate, Identifier]:
        """Return the solution as resolvelib's own engine does; see `frontier`."""
        return self.frontier(list(requirements)).result()

    def frontier(self, roots: Sequence[Need]) -> Frontier:
        """Return the solution.

        Raises:
            Conflict: The walk would have to backtrack; there may or may not be a solution.
        """
        frontier = Frontier(self._space, roots)
        for name, extra in frontier.visit():
            release = frontier.pinned.get(name)
            if release is None:
                at = next(frontier.viable(name, extra), None)
                if at is None:
                    raise Conflict
                release = self._space.domain(name).ascending[at]
            frontier.pin(name, extra, release)
            frontier.settle()
        return frontier
