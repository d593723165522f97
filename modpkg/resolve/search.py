"""The search: a SAT solver decides which versions are possible, name by name, best first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from resolvelib import AbstractResolver
from resolvelib.resolvers import ResolverException, Result

from modpkg.core.names import ModuleName
from modpkg.resolve.budget import CORE_BUDGET, Budget
from modpkg.resolve.clauses import Clauses
from modpkg.resolve.frontier import Conflict, Frontier, Mark
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.solver import Solver
from modpkg.resolve.space import Space
from modpkg.resolve.unsat_core import NoSolution, minimal_cores

MOST_AHEAD = 256
"""Most names whose best releases are assumed together in one query."""
MOST_TRIED = 64
"""Releases of one name that are tried one by one, before ranges of them are asked about."""
HORIZON = 100_000
"""Variables that are encoded ahead of the choices. A model of more takes longer, and what is so far
away seldom matters."""
PATIENCE = 20
"""Refutations of earlier choices than the last one refuted, before it is looked less far ahead."""


class _Shortsighted(Exception):
    """What was beyond the horizon rules out what was chosen."""


class _Foresight:
    """The solver, and the clauses that it is given as the choices go on."""

    def __init__(
        self, solver: Solver, clauses: Clauses, horizon: int, limit: Budget | None
    ) -> None:
        self.solver = solver
        self.clauses = clauses
        self._horizon = horizon
        self._limit = limit
        solver.add(clauses.of_roots())
        self._charge(0)
        for root in clauses.roots:
            self.see(root.identifier)

    def see(self, wanted: Identifier) -> None:
        """Tell the solver all that is known of a name, or an extra, and of what is reached next."""
        before = self.solver.clauses
        self.solver.add(self.clauses.ahead(wanted, self._horizon))
        self._charge(before)

    def _charge(self, before: int) -> None:
        added = self.solver.clauses - before
        if added and self._limit is not None:
            self._limit.charge_clauses(added)

    def miss(self, what: str) -> Exception:
        """Return the error for choices that have no solution although the solver found one."""
        limited = self._horizon < sys.maxsize
        return _Shortsighted(what) if limited else AssertionError(what)


class _Step:
    """A choice that is assumed, and what to try in its place."""

    __slots__ = ("extra", "literals", "mark", "name", "rest", "tried")

    def __init__(self, mark: Mark, wanted: Identifier, rest: Iterator[int]) -> None:
        self.mark = mark
        """The frontier before it."""
        self.name, self.extra = wanted
        self.rest = rest
        """Positions that are not tried yet, the best first."""
        self.tried = 0
        self.literals: list[int] = []


class SatSearch(AbstractResolver[Need, Candidate, Identifier]):
    """The second step: complete, with the same result as the walk if that has one.

    Names are visited in the order of the walk, and for each the query is: is there a solution with
    a better release of this name, given the choices so far? The solver knows what is reached next,
    up to a horizon. What it refutes has no solution; what it does not may still conflict with
    something beyond. If that is seen later, all begins again without a horizon. If it is not, what
    is chosen is a solution in the end, in which everything better was refuted: the preferred one.
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
        """Return the preferred solution as resolvelib's own engine does; see `frontier`."""
        found = self.frontier(list(requirements), limit=limit, explaining=explaining)
        return found.result()

    def frontier(
        self, roots: Sequence[Need], *, limit: Budget | None, explaining: Budget | None
    ) -> Frontier:
        """Return the preferred solution.

        Args:
            limit: Limits the search; unlimited if None.
            explaining: Limits the reduction of a conflict to a minimal set.

        Raises:
            NoSolution: Its conflicts are needs that cannot be met together, minimal sets as far as
                ``explaining`` allows.
            BudgetExceeded: ``limit`` is reached.
        """
        explaining = explaining or Budget(CORE_BUDGET)
        try:
            return self._searched(roots, HORIZON, limit, explaining)
        except _Shortsighted:
            return self._searched(roots, sys.maxsize, limit, explaining)

    def _searched(
        self, roots: Sequence[Need], horizon: int, limit: Budget | None, explaining: Budget
    ) -> Frontier:
        clauses = Clauses(self._space, roots)
        with Solver(limit) as solver:
            foresight = _Foresight(solver, clauses, horizon, limit)
            self.queries += 1
            if not solver.solve():
                raise NoSolution(minimal_cores(clauses, explaining))
            return self._prefer(foresight, Frontier(self._space, roots))

    def _prefer(self, foresight: _Foresight, frontier: Frontier) -> Frontier:
        ahead = 1
        while not frontier.finished:
            ahead = min(2 * self._advance(foresight, frontier, ahead), MOST_AHEAD)
            frontier.settle()
        return frontier

    def _advance(self, foresight: _Foresight, frontier: Frontier, ahead: int) -> int:
        """Choose for the next names, up to ``ahead`` of them; return of how many.

        The best releases that the frontier allows are assumed together. If they are refuted, so is
        the last choice that the refutation used, given those before it: the next best takes its
        place.
        """
        solver, clauses = foresight.solver, foresight.clauses
        start = frontier.mark()
        steps: list[_Step] = []
        looking = True
        deepest = wasted = 0
        while True:
            if looking:
                self._look(foresight, frontier, steps, ahead)
                if frontier.mark() == start:
                    raise foresight.miss("the solver's solution is ruled out")
            assumed = [literal for step in steps for literal in step.literals]
            self.queries += 1
            if solver.solve(assumed):
                if not looking:
                    assumed += self._by_ranges(solver, clauses, frontier, assumed)
                solver.add([literal] for literal in assumed)
                return len(steps) + (not looking)
            used = set(solver.core())
            while steps and used.isdisjoint(steps[-1].literals):
                steps.pop()
            if not steps:
                raise foresight.miss("what the solver found possible is refuted")
            frontier.back(steps[-1].mark)
            if len(steps) < deepest:
                wasted += 1
                if wasted > PATIENCE:
                    ahead = len(steps)
            else:
                deepest = len(steps)
            looking = steps[-1].tried < MOST_TRIED and self._take(clauses, frontier, steps[-1])
            if not looking:
                steps.pop()

    def _look(
        self, foresight: _Foresight, frontier: Frontier, steps: list[_Step], ahead: int
    ) -> None:
        """Choose as the walk does, until there are ``ahead`` choices or a conflict."""
        while len(steps) < ahead and not frontier.finished:
            mark = frontier.mark()
            name, extra = frontier.next()
            foresight.see((name, extra))
            release = frontier.pinned.get(name)
            if release is not None:
                try:
                    frontier.pin(name, extra, release)
                except Conflict:
                    frontier.back(mark)
                    return
                continue
            step = _Step(mark, (name, extra), frontier.viable(name, extra))
            frontier.back(mark)
            if not self._take(foresight.clauses, frontier, step):
                return
            steps.append(step)

    def _take(self, clauses: Clauses, frontier: Frontier, step: _Step) -> bool:
        """Choose the next position of a step; return whether there is one."""
        frontier.next()
        at = next(step.rest, None)
        if at is None:
            frontier.back(step.mark)
            return False
        frontier.pin(step.name, step.extra, self._space.domain(step.name).ascending[at])
        step.tried += 1
        step.literals = clauses.among(step.name, at, at)
        return True

    def _by_ranges(
        self, solver: Solver, clauses: Clauses, frontier: Frontier, given: list[int]
    ) -> list[int]:
        """Choose for the next name, with queries about ranges of its positions.

        ``given`` is what was assumed last, and has a solution. Return the literals of the choice.
        """
        name, extra = frontier.next()
        held = clauses.position(name, solver.model())
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
            if solver.solve([*given, *assumed]):
                held = clauses.position(name, solver.model())
                better = better[: better.index(held)]
            else:
                better = better[covered:]
        frontier.pin(name, extra, self._space.domain(name).ascending[held])
        return clauses.among(name, held, held)

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
        if frontier.expecting.get(name):
            mixed = len(better) < len(between)  # what else is between may be worse
        else:
            mixed = any(domain.rank[at] >= domain.rank[held] for at in between)
        if mixed:
            first = last = better[0]
        return clauses.among(name, first, last), len(better) if first < last else 1
