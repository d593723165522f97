"""The SAT solver: CaDiCaL, through the extension module of `python-sat`.

The Python part of that package is not used: it takes 10 ms to import, and adds a third to the time
of adding a clause.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType

from modpkg.resolve.budget import Budget

OPTIONS = {"stabilizeonly": 1, "inprocessing": 0, "lucky": 0}
"""CaDiCaL's "stable mode" throughout: few restarts, and decisions close to the last model. No
simplification of the clauses between two queries. Both make the slowest of the benchmarks several
times faster. No lucky guesses, which would ignore the preferred values."""


class Solver:
    """An incremental solver. A literal is a variable, counted from 1, or a negated one."""

    def __init__(self, budget: Budget | None = None) -> None:
        """``budget`` limits the queries; unlimited if None."""
        import pysolvers  # slow to import, and needed only after a conflict

        self._budget = budget
        self._cadical = pysolvers
        self._handle = pysolvers.cadical195_new()
        self._assumed: Sequence[int] = ()
        for name, value in OPTIONS.items():
            pysolvers.cadical195_set(self._handle, name, value)

    def __enter__(self) -> Solver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cadical.cadical195_del(self._handle, None)

    def add(self, clauses: Iterable[Sequence[int]]) -> None:
        """Add clauses, each a disjunction of literals."""
        add, handle = self._cadical.cadical195_add_cl, self._handle
        for clause in clauses:
            add(handle, clause)

    def prefer(self, literals: Iterable[int]) -> None:
        """Set the value of variables to try first; each variable must be in a clause already."""
        self._cadical.cadical195_setphases(self._handle, list(literals))

    @property
    def clauses(self) -> int:
        """About how many clauses were added: the solver drops redundant ones."""
        count: int = self._cadical.cadical195_nof_cls(self._handle)
        return count

    def solve(self, assumed: Sequence[int] = ()) -> bool:
        """Return whether the clauses and the assumed literals are satisfiable.

        Raises:
            BudgetExceeded: The budget is spent before the answer is known.
        """
        self._assumed = list(assumed)
        interruptible = int(threading.current_thread() is threading.main_thread())
        if self._budget is None:
            satisfiable: bool = self._cadical.cadical195_solve(
                self._handle, self._assumed, interruptible
            )
            return satisfiable
        self._budget.check()
        before = self._conflicts()
        self._cadical.cadical195_cbudget(self._handle, self._budget.left)
        answer = self._cadical.cadical195_solve_lim(self._handle, self._assumed, interruptible)
        conflicts = self._conflicts() - before
        self._budget.charge_query(conflicts, len(self._assumed), refuted=answer < 0)
        if answer == 0:
            self._budget.left = 0
            self._budget.check()
        return bool(answer > 0)

    def _conflicts(self) -> int:
        count: int = self._cadical.cadical195_acc_stats(self._handle)["conflicts"]
        return count

    def model(self) -> Sequence[int]:
        """Return the true literal of each variable, after `solve` returned true."""
        literals: Sequence[int] = self._cadical.cadical195_model(self._handle)
        return literals

    def core(self) -> list[int]:
        """Return assumed literals that are unsatisfiable together, after `solve` returned false."""
        return self._cadical.cadical195_core(self._handle, self._assumed) or []
