"""How much work an explanation may cost.

Counted in conflicts of the solver, not in seconds: what is told must not depend on how fast or how
busy a machine is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CORE = 100_000
"""For making the set of needs that collide small."""
HELPS = 100_000
"""For all changes that are tried together."""
_QUESTION = 20
"""What a question costs at least: the solver propagates, also where it meets no conflict."""
_CLAUSES = 10
"""Clauses that cost as much to write as a conflict costs."""


class Spent(Exception):
    """The work that was allowed is done, and the question is open."""


class Budget:
    """Conflicts that may still be spent."""

    def __init__(self, conflicts: int) -> None:
        self._left = conflicts
        self.spent = False
        """Whether a question was left open for want of budget."""

    def solve(self, solver: Any, assumptions: Sequence[int] = ()) -> bool:
        """Return whether there is a model under the assumptions.

        Raises:
            Spent: that would cost more than is left.
        """
        self._check()
        before = solver.accum_stats()["conflicts"]
        solver.conf_budget(self._left)
        answer: bool | None = solver.solve_limited(assumptions=list(assumptions))
        self._left -= solver.accum_stats()["conflicts"] - before + _QUESTION
        if answer is None:
            self._left = 0
            self._check()
        return bool(answer)

    def write(self, clauses: int) -> None:
        """Take what writing so many clauses costs.

        Raises:
            Spent: nothing is left after that.
        """
        self._left -= clauses // _CLAUSES
        self._check()

    def _check(self) -> None:
        if self._left <= 0:
            self.spent = True
            raise Spent
