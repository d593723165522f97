"""The SAT solver: CaDiCaL, through the extension module of `python-sat`.

The Python part of that package is left out. It takes 10 ms to import, and adds a third to the time
of adding a clause.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType

from modpkg.resolve.budget import Budget

OPTIONS = {"stabilizeonly": 1, "inprocessing": 0, "lucky": 0}
"""CaDiCaL's "stable mode" throughout: few restarts, and decisions that keep near the last model.
No simplifying of the clauses between two questions. Both make the slowest of the benchmark's
universes several times quicker. No lucky guesses: they would pass over what is preferred."""


class Solver:
    """An incremental solver. A literal is a variable, counted from 1, or a negated one."""

    def __init__(self, budget: Budget | None = None) -> None:
        """``budget`` bounds the questions; without one they take as long as they take."""
        import pysolvers  # at conflicts only

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
        """Add clauses: of each, one literal has to hold."""
        add, handle = self._cadical.cadical195_add_cl, self._handle
        for clause in clauses:
            add(handle, clause)

    def prefer(self, literals: Iterable[int]) -> None:
        """Say which value of a variable is tried first. The variables occur in clauses already."""
        self._cadical.cadical195_setphases(self._handle, list(literals))

    @property
    def clauses(self) -> int:
        """How many clauses were added, about: the solver drops some that say nothing."""
        count: int = self._cadical.cadical195_nof_cls(self._handle)
        return count

    def ask(self, assumed: Sequence[int] = ()) -> bool:
        """Say whether everything can hold, and the assumed literals too.

        Raises:
            BudgetExceeded: the answer would cost more than the budget has.
        """
        self._assumed = list(assumed)
        interruptible = int(threading.current_thread() is threading.main_thread())
        if self._budget is None:
            found: bool = self._cadical.cadical195_solve(self._handle, self._assumed, interruptible)
            return found
        self._budget.check()
        before = self._conflicts()
        self._cadical.cadical195_cbudget(self._handle, self._budget.left)
        answer = self._cadical.cadical195_solve_lim(self._handle, self._assumed, interruptible)
        self._budget.ask(self._conflicts() - before)
        if answer == 0:
            self._budget.left = 0
            self._budget.check()
        return bool(answer > 0)

    def _conflicts(self) -> int:
        count: int = self._cadical.cadical195_acc_stats(self._handle)["conflicts"]
        return count

    def model(self) -> Sequence[int]:
        """Return the literals that hold, by variable, after the answer was yes."""
        found: Sequence[int] = self._cadical.cadical195_model(self._handle)
        return found

    def core(self) -> list[int]:
        """Return assumed literals that cannot hold together, after the answer was no."""
        return self._cadical.cadical195_core(self._handle, self._assumed) or []
