"""The search: a SAT solver decides which versions are possible, name by name, best first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from resolvelib import AbstractResolver
from resolvelib.resolvers import ResolverException, Result

from modpkg.core.names import ModuleName
from modpkg.resolve.budget import CORE_BUDGET, Budget
from modpkg.resolve.clauses import Clauses
from modpkg.resolve.frontier import Frontier
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.order import within
from modpkg.resolve.solver import Solver
from modpkg.resolve.space import Space
from modpkg.resolve.unsat_core import NoSolution, minimal_cores

AHEAD = 20
"""For this many of the next names the solver tries the best release first. With none, there would
be a third more queries; with all of them, more conflicts on hard graphs."""


class SatSearch(AbstractResolver[Need, Candidate, Identifier]):
    """The second step: complete, with the same result as the walk if that has one.

    There is always a model: a solution, not necessarily the preferred one. Names are visited in the
    order of the walk, and for each the query is: is there a solution with a better release of this
    name, given the choices so far? The solver is queried only if the model and the frontier do not
    answer that already.
    """

    base_exception = ResolverException

    def __init__(self, space: Space, reporter: Any) -> None:
        super().__init__(space.provider, reporter)
        self._space = space
        self.queries = 0
        """How often the solver was queried."""

    def resolve(
        self,
        requirements: Iterable[Need],
        *,
        limit: Budget | None = None,
        explaining: Budget | None = None,
        **_: Any,
    ) -> Result[Need, Candidate, Identifier]:
        """Return the preferred solution.

        Args:
            limit: Limits the search; unlimited if None.
            explaining: Limits the reduction of a conflict to a minimal set.

        Raises:
            NoSolution: Its conflicts are needs that cannot be met together, minimal sets as far as
                ``explaining`` allows.
            BudgetExceeded: ``limit`` is reached.
        """
        roots = list(requirements)
        clauses = Clauses(self._space, roots)
        with Solver(limit) as solver:
            solver.add(clauses.all())
            if limit is not None:
                limit.charge_clauses(solver.clauses)
            self.queries += 1
            if not solver.solve():
                raise NoSolution(minimal_cores(clauses, explaining or Budget(CORE_BUDGET)))
            return self._prefer(solver, clauses, Frontier(self._space, roots))

    def _prefer(
        self, solver: Solver, clauses: Clauses, frontier: Frontier
    ) -> Result[Need, Candidate, Identifier]:
        model = solver.model()
        for name, extra in frontier.visit():
            release = frontier.pinned.get(name)
            if release is None:
                at, model = self._best(solver, clauses, frontier, name, extra, model)
                solver.add([literal] for literal in clauses.among(name, at, at))
                release = self._space.domain(name).ascending[at]
            frontier.pin(name, extra, release)
        return frontier.result()

    def _best(
        self,
        solver: Solver,
        clauses: Clauses,
        frontier: Frontier,
        name: ModuleName,
        extra: str | None,
        model: Sequence[int],
    ) -> tuple[int, Sequence[int]]:
        """Return the best position of a name that has a solution, and a model of that solution."""
        held = clauses.position(name, model)
        better: list[int] = []
        for at in frontier.viable(name, extra):
            if at == held:
                break
            better.append(at)
        else:
            raise AssertionError(f"the solver chose a position of {name} that is ruled out")
        while better:
            assumed, covered = self._query(clauses, frontier, name, held, better)
            self.queries += 1
            solver.prefer(clauses.values(name, better[0]))
            solver.prefer(self._ahead(clauses, frontier))
            if solver.solve(assumed):
                model = solver.model()
                held = clauses.position(name, model)
                better = better[: better.index(held)]
            else:
                better = better[covered:]
        return held, model

    def _ahead(self, clauses: Clauses, frontier: Frontier) -> Iterator[int]:
        """Yield the literals of the best release of each of the next names."""
        for name, _ in itertools.islice(frontier.unvisited(), AHEAD):
            if name not in frontier.pinned:
                runs = frontier.allowed[name]
                best = next(at for at in self._space.domain(name).preference if within(at, runs))
                yield from clauses.values(name, best)

    def _query(
        self,
        clauses: Clauses,
        frontier: Frontier,
        name: ModuleName,
        held: int,
        better: Sequence[int],
    ) -> tuple[list[int], int]:
        """Return the assumption "one of the better positions", and how many of them it covers.

        If no worse position is between them, that is a range: two literals. Otherwise, which is so
        if the locked release or an exact fit is preferred, it is the best position alone.
        """
        domain = self._space.domain(name)
        first, last = min(better), max(better)
        between = range(first, last + 1)
        if name in frontier.expecting:
            mixed = len(better) < len(between)  # what else is between may be worse
        else:
            mixed = any(domain.rank[at] >= domain.rank[held] for at in between)
        if mixed:
            first = last = better[0]
        return clauses.among(name, first, last), len(better) if first < last else 1
