"""How much work an explanation may cost.

Counted in conflicts of the solver, not in seconds: what is told must not depend on how fast or how
busy a machine is.
"""

from __future__ import annotations

CORE = 100_000
"""For making the set of needs that collide small."""
HELPS = 100_000
"""For all changes that are tried together."""
_QUESTION = 20
"""What a question costs at least: the solver propagates, also where it meets no conflict."""
_CLAUSES = 10
"""Clauses that cost as much to write as a conflict costs."""


class BudgetExceeded(Exception):
    """The work that was allowed is done, and the question is open."""


class Budget:
    """Conflicts that may still be spent."""

    def __init__(self, conflicts: int) -> None:
        self.left = conflicts
        self.spent = False
        """Whether a question was left open for want of budget."""

    def check(self) -> None:
        """Raise `BudgetExceeded` when nothing is left."""
        if self.left <= 0:
            self.spent = True
            raise BudgetExceeded

    def ask(self, conflicts: int) -> None:
        """Take what a question cost that met so many conflicts."""
        self.left -= conflicts + _QUESTION

    def write(self, clauses: int) -> None:
        """Take what writing so many clauses costs.

        Raises:
            BudgetExceeded: nothing is left after that.
        """
        self.left -= clauses // _CLAUSES
        self.check()
