"""The walk: breadth first and best first, in one pass that never takes a choice back.

It visits and chooses as `resolvelib.Resolver` does with our provider as long as nothing conflicts,
and behind the same interface. The stock engine copies its whole state at each step, to be able to
go back: on a chain of 5,000 names that is some 25 million entries. The walk does not go back. At
the first name that has nothing left to choose it raises `Conflict`, and the search takes over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resolvelib import AbstractResolver
from resolvelib.resolvers import ResolverException, Result

from modpkg.resolve.frontier import Conflict, Frontier
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.space import Space


class Walk(AbstractResolver[Need, Candidate, Identifier]):
    """The first step. What it finds is the preferred answer.

    Each name takes the best release that the choices before it do not rule out. Were a better one
    part of an answer that has the same choices before it, they would not rule it out.
    """

    base_exception = ResolverException

    def __init__(self, space: Space, reporter: Any) -> None:
        super().__init__(space.provider, reporter)
        self._space = space

    def resolve(
        self, requirements: Iterable[Need], **_: Any
    ) -> Result[Need, Candidate, Identifier]:
        """Return the answer.

        Raises:
            Conflict: a choice would have to be taken back. It says nothing of whether there is
                an answer.
        """
        frontier = Frontier(self._space, list(requirements))
        while frontier.pending:
            name, extra = frontier.pending.popleft()
            release = frontier.pinned.get(name)
            if release is None:
                at = next(frontier.viable(name, extra), None)
                if at is None:
                    raise Conflict
                release = self._space.domain(name).ascending[at]
            frontier.pin(name, extra, release)
        return frontier.result()
