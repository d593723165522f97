"""The SAT solver: CaDiCaL, through the extension module of `python-sat`.

The Python part of that package is left out. It takes 10 ms to import, and adds a third to the time
of adding a clause.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType

OPTIONS = {"stabilizeonly": 1, "inprocessing": 0, "lucky": 0}
"""CaDiCaL's "stable mode" throughout: few restarts, and decisions that keep near the last model.
No simplifying of the clauses between two questions. Both make the slowest of the benchmark's
universes several times quicker. No lucky guesses: they would pass over what is preferred."""


class Solver:
    """An incremental solver. A literal is a variable, counted from 1, or a negated one."""

    def __init__(self) -> None:
        import pysolvers  # at conflicts only

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

    def ask(self, assumed: Sequence[int] = ()) -> bool:
        """Say whether everything can hold, and the assumed literals too."""
        self._assumed = list(assumed)
        interruptible = threading.current_thread() is threading.main_thread()
        found: bool = self._cadical.cadical195_solve(
            self._handle, self._assumed, int(interruptible)
        )
        return found

    def model(self) -> Sequence[int]:
        """Return the literals that hold, by variable, after the answer was yes."""
        found: Sequence[int] = self._cadical.cadical195_model(self._handle)
        return found

    def core(self) -> list[int]:
        """Return assumed literals that cannot hold together, after the answer was no."""
        return self._cadical.cadical195_core(self._handle, self._assumed) or []
