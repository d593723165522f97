"""The reachable part of a registry as clauses for a SAT solver, in an order encoding.

For each name with ``k`` admitted releases there are ``k`` variables: ``wanted`` (the name is in the
solution), and ``at least 1`` … ``at least k-1`` (its position is that or a later one). ``at least
i+1`` implies ``at least i``, so that "at most one release" needs no clause, and a range of
positions is two literals.
(The encoding is that of Crawford and Baker, "Experimental results on the application of
satisfiability algorithms to scheduling problems", AAAI 1994, and of Tamura et al., "Compiling
finite linear CSP into SAT", Constraints 14, 2009.)

A release of ``m`` at position ``i`` that needs ``n`` in ``[a, b)`` is three clauses, of which
releases in a row with the same demand share one::

    not (m wanted)  or  not (m at least i)  or  m at least i+1  or  n wanted
    not (m wanted)  or  not (m at least i)  or  m at least i+1  or  n at least a
    not (m wanted)  or  not (m at least i)  or  m at least i+1  or  not (n at least b)

If a name is not wanted, the needs of its releases are met whatever its position is. An extra has a
separate variable, which implies that the name is wanted; its needs are conditional on it. Only
releases that some chain of needs from the roots allows are encoded.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

from modpkg.core.names import ModuleName
from modpkg.resolve.need import Identifier, Need
from modpkg.resolve.order import Runs, bits, mask_of, runs_of, within
from modpkg.resolve.space import Space

Clause = tuple[int, ...]
_Demand = tuple[ModuleName, str | None, Runs]
"""A name, or an extra of it, and the positions that are allowed."""
_SHARED = 1 << 14
"""Demands whose clauses are kept, since other names may have the same."""


class Clauses:
    """The variables and clauses of one resolution."""

    def __init__(self, space: Space, roots: Sequence[Need]) -> None:
        self.space = space
        self.roots = roots
        self._wanted: dict[ModuleName, int] = {}
        self._extra: dict[Identifier, int] = {}
        self._count = 0
        self.reached: dict[Identifier, int] = {}
        """Per name or extra, the positions that can be reached, as bits."""
        self._demanded: dict[Identifier, dict[_Demand, int]] = {}
        """What releases of a name demand, each with their positions as bits."""
        self._known: dict[_Demand, list[Clause]] = {}
        self._reach()
        self._order = [*self._demanded]
        """The names and extras that have needs, in the order of reaching them."""
        self._places = {wanted: place for place, wanted in enumerate(self._order)}
        self._yielded = 0
        """How many of them `ahead` has yielded."""
        self._ordered: set[Identifier] = set()

    def new_variable(self) -> int:
        """Return an unused variable."""
        self._count += 1
        return self._count

    def names(self) -> list[ModuleName]:
        """Return the names that can be reached."""
        return list(self._wanted)

    def position(self, name: ModuleName, model: Sequence[int]) -> int:
        """Return the position of a name in a model; -1 if the name is not in it."""
        wanted = self._wanted[name]
        if model[wanted - 1] < 0:
            return -1
        at = 0
        while at + 1 < len(self.space.domain(name)) and model[wanted + at] > 0:
            at += 1
        return at

    def is_wanted(self, identifier: Identifier, model: Sequence[int]) -> bool:
        """Return whether a name, or an extra of it, is in a model."""
        name, extra = identifier
        variable = self._extra.get(identifier) if extra is not None else self._wanted.get(name)
        empty = not len(self.space.domain(name))
        return variable is not None and not empty and model[variable - 1] > 0

    def among(self, name: ModuleName, first: int, last: int) -> list[int]:
        """Return the literals of "a position in ``first..last`` is chosen"."""
        wanted = self._wanted[name]
        literals = [wanted]
        if first:
            literals.append(wanted + first)
        if last + 1 < len(self.space.domain(name)):
            literals.append(-(wanted + last + 1))
        return literals

    def values(self, name: ModuleName, position: int) -> list[int]:
        """Return the true literal of each variable of a name if a position is chosen."""
        wanted = self._wanted[name]
        return [
            wanted + at if at <= position else -(wanted + at)
            for at in range(len(self.space.domain(name)))
        ]

    def ordering(self) -> Iterator[Clause]:
        """Yield "at least i+1 implies at least i", and "an extra implies its name"."""
        for wanted in (*((name, None) for name in self._wanted), *self._extra):
            yield from self._ordering(wanted)

    def _ordering(self, wanted: Identifier) -> Iterator[Clause]:
        name, extra = wanted
        count, first = len(self.space.domain(name)), self._wanted[name]
        if not count:
            return
        if extra is not None:
            yield -self._extra[wanted], first
            return
        for variable in range(first + 1, first + count - 1):
            yield -variable - 1, variable
        # The last variable may be in no other clause: this makes it known to the solver.
        last = first + count - 1
        yield last, -last

    def demands(self, need: Need) -> list[Clause]:
        """Return the clauses of "the need is met"."""
        return self._demands(need.name, need.extra, self.space.allowed(need))

    def _demands(self, name: ModuleName, extra: str | None, runs: Runs) -> list[Clause]:
        if not runs:
            return [()]
        wanted = self._wanted[name]
        demands: list[Clause] = [
            (literal,) for literal in self.among(name, runs[0][0], runs[-1][1] - 1)
        ]
        for (_, end), (start, _) in itertools.pairwise(runs):
            demands.append((-(wanted + end), wanted + start))
        if extra is not None:
            demands.append((self._extra[name, extra],))
        return demands

    def needs(
        self, wanted: Identifier, at: int, *, kept: bool = True
    ) -> Iterator[tuple[Need, Runs]]:
        """Yield the needs that a release does not meet itself, and the positions they allow.

        They are ``kept`` for whoever asks again, or made for this once.
        """
        name, extra = wanted
        allowed = self.space.allowed
        for need in self.space.needs(self.space.domain(name).ascending[at], extra, kept=kept):
            runs = allowed(need)
            if need.name != name or need.extra not in (None, extra) or not within(at, runs):
                yield need, runs

    def otherwise(self, wanted: Identifier, first: int, last: int) -> Clause:
        """Return the clause of "no position in ``first..last`` is chosen"."""
        name, extra = wanted
        clause = [-literal for literal in self.among(name, first, last)]
        if extra is not None:
            clause.append(-self._extra[wanted])
        return tuple(clause)

    def requirements(self) -> Iterator[Clause]:
        """Yield the needs of releases; adjacent releases with the same demand share a clause.

        They are yielded once: what they are made from is freed meanwhile.
        """
        for wanted in self._order:
            yield from self._requirements(wanted)

    def _requirements(self, wanted: Identifier) -> Iterator[Clause]:
        known = self._known
        demanded: dict[Clause, int] = {}
        for demand, positions in self._demanded.pop(wanted).items():
            clauses = known.get(demand)
            if clauses is None:
                if len(known) >= _SHARED:
                    known.clear()
                clauses = known[demand] = self._demands(*demand)
            for clause in clauses:
                demanded[clause] = demanded.get(clause, 0) | positions
        conditions: dict[int, Clause] = {}
        for clause, positions in demanded.items():
            rest = positions
            while rest:
                row = rest & ~(rest + (rest & -rest))
                condition = conditions.get(row)
                if condition is None:
                    ((first, end),) = runs_of(bits(row))
                    condition = conditions[row] = self.otherwise(wanted, first, end - 1)
                yield condition + clause
                rest ^= row

    def ahead(self, wanted: Identifier, horizon: int) -> Iterator[Clause]:
        """Yield what is to be known to choose a release of a name, or of an extra of it.

        That is the clauses of all names up to this one, in the order of reaching them, and of what
        is reached next: with it, ``horizon`` variables. What was yielded before is left out.
        """
        last = self._wanted[wanted[0]] + horizon
        while self._yielded < len(self._order) and (
            self._wanted[self._order[self._yielded][0]] < last
            or self._places.get(wanted, -1) >= self._yielded
        ):
            following = self._order[self._yielded]
            self._yielded += 1
            for name, extra in (following, *((n, e) for n, e, _ in self._demanded[following])):
                yield from self._mentioned(name, extra)
            yield from self._requirements(following)

    def of_roots(self) -> Iterator[Clause]:
        """Yield the needs of the roots, as `ahead` yields those of releases."""
        for root in self.roots:
            yield from self._mentioned(root.name, root.extra)
            yield from self.demands(root)

    def _mentioned(self, name: ModuleName, extra: str | None) -> Iterator[Clause]:
        for wanted in ((name, None), (name, extra)):
            if wanted not in self._ordered:
                self._ordered.add(wanted)
                yield from self._ordering(wanted)

    def _reach(self) -> None:
        """Find what can be reached from the roots."""
        roots: dict[ModuleName, int] = {}
        for root in self.roots:
            mask = mask_of(self.space.allowed(root))
            roots[root.name] = roots.get(root.name, mask) & mask
        pending: deque[tuple[Identifier, int]] = deque()

        def ask(wanted: Identifier, runs: Runs) -> None:
            mask = mask_of(runs) & roots.get(wanted[0], -1)
            known = self.reached.get(wanted)
            if known is None:
                self._introduce(wanted)
                known = 0
            new = mask & ~known
            self.reached[wanted] = known | new
            if new:
                pending.append((wanted, new))

        for root in self.roots:
            ask(root.identifier, self.space.allowed(root))
        asked: set[_Demand] = set()
        while pending:
            wanted, new = pending.popleft()
            demanded = self._demanded.setdefault(wanted, {})
            for at in bits(new):
                bit = 1 << at
                for need, runs in self.needs(wanted, at, kept=False):
                    demand = need.name, need.extra, runs
                    positions = demanded.get(demand)
                    if positions is None:
                        if demand not in asked:
                            asked.add(demand)
                            ask(need.identifier, runs)
                        demanded[demand] = bit
                    else:
                        demanded[demand] = positions | bit

    def _introduce(self, wanted: Identifier) -> None:
        name, extra = wanted
        if name not in self._wanted:
            self._wanted[name] = self._count + 1
            self._count += len(self.space.domain(name))
        if extra is not None:
            self._extra[wanted] = self.new_variable()
