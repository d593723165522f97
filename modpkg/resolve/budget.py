"""How much work an explanation may take.

It is counted in conflicts of the solver, not in seconds: the explanation must not depend on the
machine and its load.
"""

from __future__ import annotations

CORE_BUDGET = 100_000
"""For reducing the conflicting needs to a minimal set."""
SUGGESTION_BUDGET = 100_000
"""For trying all suggestions together."""
_MODEL = 20
"""Cost of a query that has a solution, in which the solver decides about every variable."""
_REFUTED = 2
"""Cost of one that is refuted by propagation."""
_ASSUMED = 10
"""Assumptions of a query that cost as much as a conflict."""
_CLAUSES = 10
"""Clauses that cost as much to add as a conflict."""


class BudgetExceeded(Exception):
    """The budget is spent, and the query is unanswered."""


class Budget:
    """A number of conflicts, which queries and clauses are charged to."""

    def __init__(self, conflicts: int) -> None:
        self.left = conflicts
        self.exceeded = False
        """Whether a query was left unanswered."""

    def check(self) -> None:
        """Raise `BudgetExceeded` if nothing is left."""
        if self.left <= 0:
            self.exceeded = True
            raise BudgetExceeded

    def charge_query(self, conflicts: int, assumed: int, *, refuted: bool) -> None:
        """Charge a query under that many assumptions, with that many conflicts."""
        self.left -= conflicts + (_REFUTED if refuted else _MODEL) + assumed // _ASSUMED

    def charge_clauses(self, clauses: int) -> None:
        """Charge adding ``clauses`` clauses.

        Raises:
            BudgetExceeded: Nothing is left after that.
        """
        self.left -= clauses // _CLAUSES
        self.check()
