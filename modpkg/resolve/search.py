"""The search: a SAT solver says what is possible; names are asked one by one, best first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from resolvelib import AbstractResolver
from resolvelib.resolvers import ResolutionImpossible, ResolverException, Result

from modpkg.core.names import ModuleName
from modpkg.resolve.budget import CORE, Budget
from modpkg.resolve.clauses import Clauses
from modpkg.resolve.frontier import Frontier
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.order import within
from modpkg.resolve.solver import Solver
from modpkg.resolve.space import Space
from modpkg.resolve.unsat_core import minimal_core

AHEAD = 20
"""For so many names to come the solver tries their best first. Were it told of none, it would be
asked a third more; were it told of all at the beginning, hard graphs would have more conflicts."""


class SatSearch(AbstractResolver[Need, Candidate, Identifier]):
    """The second step: complete, and with the walk's meaning.

    One model, an answer that need not be the preferred one, is always at hand. Names are visited
    as the walk visits them, and each asks: is there an answer with a better release of this name,
    given the choices so far? The solver is asked only when the model at hand and the frontier do
    not answer already.
    """

    base_exception = ResolverException

    def __init__(self, space: Space, reporter: Any) -> None:
        super().__init__(space.provider, reporter)
        self._space = space
        self.asked = 0
        """How often the solver was asked."""

    def resolve(
        self,
        requirements: Iterable[Need],
        *,
        limit: Budget | None = None,
        explaining: Budget | None = None,
        **_: Any,
    ) -> Result[Need, Candidate, Identifier]:
        """Return the preferred answer; ``limit`` bounds the search, which has no bound of its own.

        Raises:
            resolvelib.ResolutionImpossible: there is none; its causes are the needs of a smallest
                set that cannot hold together, as far as the budget ``explaining`` allows.
            BudgetExceeded: the limit was reached.
        """
        roots = list(requirements)
        clauses = Clauses(self._space, roots)
        with Solver(limit) as solver:
            solver.add(clauses.all())
            if limit is not None:
                limit.write(solver.clauses)
            self.asked += 1
            if not solver.ask():
                raise ResolutionImpossible(minimal_core(clauses, explaining or Budget(CORE)))
            return self._prefer(solver, clauses, Frontier(self._space, roots))

    def _prefer(
        self, solver: Solver, clauses: Clauses, frontier: Frontier
    ) -> Result[Need, Candidate, Identifier]:
        model = solver.model()
        while frontier.pending:
            name, extra = frontier.pending.popleft()
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
        """Return the best position of a name for which there is an answer, and such an answer."""
        held = clauses.position(name, model)
        better: list[int] = []
        for at in frontier.viable(name, extra):
            if at == held:
                break
            better.append(at)
        else:
            raise AssertionError(f"the solver chose {name} against what is chosen")
        while better:
            assumed, asked = self._question(clauses, name, held, better)
            self.asked += 1
            solver.prefer(clauses.values(name, better[0]))
            solver.prefer(self._ahead(clauses, frontier))
            if solver.ask(assumed):
                model = solver.model()
                held = clauses.position(name, model)
                better = better[: better.index(held)]
            else:
                better = better[asked:]
        return held, model

    def _ahead(self, clauses: Clauses, frontier: Frontier) -> Iterator[int]:
        """Yield what is to be tried first of the names that are visited next: their best."""
        for name, _ in itertools.islice(frontier.pending, AHEAD):
            if name not in frontier.pinned:
                runs = frontier.allowed[name]
                best = next(at for at in self._space.domain(name).preference if within(at, runs))
                yield from clauses.values(name, best)

    def _question(
        self, clauses: Clauses, name: ModuleName, held: int, better: Sequence[int]
    ) -> tuple[list[int], int]:
        """Return the assumption "one of the better ones", and how many of them it covers.

        Where nothing worse lies among those that are better, that is a stretch: two literals.
        Otherwise (the locked release comes first) the best one is asked for alone.
        """
        domain = self._space.domain(name)
        first, last = min(better), max(better)
        rank = domain.rank
        if any(rank[at] >= rank[held] for at in range(first, last + 1)):
            first = last = better[0]
        return clauses.among(name, first, last), len(better) if first < last else 1
