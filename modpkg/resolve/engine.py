"""The engine: the walk, and the search if the walk meets a conflict."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resolvelib import AbstractResolver, Resolver
from resolvelib.resolvers import ResolverException, Result

from modpkg.resolve.budget import Budget
from modpkg.resolve.frontier import Conflict, Frontier
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.prefetch import prefetch_reachable
from modpkg.resolve.space import Space
from modpkg.resolve.walk import Walk

MAX_ROUNDS = 2_000_000


class Engine(AbstractResolver[Need, Candidate, Identifier]):
    """Both steps as one resolver. ``MODPKG_SOLVER`` forces one of them, or resolvelib's own."""

    base_exception = ResolverException

    def __init__(self, space: Space, reporter: Any) -> None:
        super().__init__(space.provider, reporter)
        self._space = space

    def resolve(
        self,
        requirements: Iterable[Need],
        *,
        limit: Budget | None = None,
        explaining: Budget | None = None,
        **_: Any,
    ) -> Result[Need, Candidate, Identifier]:
        """Return what `chosen` does, as resolvelib's own engine."""
        found = self._found(list(requirements), limit, explaining)
        return found.result() if isinstance(found, Frontier) else found

    def chosen(
        self, roots: Sequence[Need], *, limit: Budget | None, explaining: Budget | None
    ) -> Mapping[Identifier, Candidate]:
        """Return the preferred solution; the budgets are those of `SatSearch.resolve`.

        Raises:
            resolvelib.ResolutionImpossible: There is no solution.
            BudgetExceeded: ``limit`` is reached.
            Conflict: The walk is forced, and would have to backtrack.
        """
        return self._found(roots, limit, explaining).mapping

    def _found(
        self, roots: Sequence[Need], limit: Budget | None, explaining: Budget | None
    ) -> Frontier | Result[Need, Candidate, Identifier]:
        forced = os.environ.get("MODPKG_SOLVER", "")
        if forced == "resolvelib":
            return Resolver(self.provider, self.reporter).resolve(roots, max_rounds=MAX_ROUNDS)
        if forced != "search":
            try:
                return Walk(self._space, self.reporter).frontier(roots)
            except Conflict:
                if forced == "walk":
                    raise
        from modpkg.resolve.search import SatSearch  # most resolutions do without

        prefetch_reachable(self._space, roots)
        return SatSearch(self._space, self.reporter).frontier(
            roots, limit=limit, explaining=explaining
        )
