"""The reachable part of a registry as clauses for a SAT solver, in an order encoding.

For each name with ``k`` admitted releases there are ``k`` variables: ``at least 0`` (the name is in
the answer at all), ``at least 1`` … ``at least k-1`` (the chosen position is that or a later one).
``at least i+1`` implies ``at least i``; so "one release at most" needs no clause, a stretch of
positions is two literals however long it is, and a name that nothing asks for is simply free.
(The encoding is that of Crawford and Baker, "Experimental results on the application of
satisfiability algorithms to scheduling problems", AAAI 1994, and of Tamura et al., "Compiling
finite linear CSP into SAT", Constraints 14, 2009.)

A release at position ``i`` that needs ``n`` in ``[a, b)`` is two clauses of three literals::

    not (at least i)  or  at least i+1  or  n at least a
    not (at least i)  or  at least i+1  or  not (n at least b)

An extra of a name has one variable of its own, which implies the name; what it needs is
conditional on it. Only releases that some chain of needs from the roots allows are encoded.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

from modpkg.names import ModuleName
from modpkg.resolve.order import Runs, runs_of, within
from modpkg.resolve.provider import Identifier, Need
from modpkg.resolve.space import Space, identifier

Clause = list[int]


class Clauses:
    """The variables and clauses of one resolution."""

    def __init__(self, space: Space, roots: Sequence[Need]) -> None:
        self.space = space
        self.roots = roots
        self._first: dict[ModuleName, int] = {}
        self._extra: dict[Identifier, int] = {}
        self._count = 0
        self.reached: dict[Identifier, int] = {}
        """Per name or extra, the positions that can be asked for, as bits."""
        self._holders: dict[Identifier, dict[tuple[ModuleName, str | None, Runs], int]] = {}
        """What the releases of a name need; and which of them, as bits."""
        self._reach()

    def at_least(self, name: ModuleName, position: int) -> int:
        """Return the variable for "the chosen position is ``position`` or later"."""
        return self._first[name] + position

    def new_variable(self) -> int:
        """Return a variable that nothing else uses."""
        self._count += 1
        return self._count

    def names(self) -> list[ModuleName]:
        """Return the names that can be reached."""
        return list(self._first)

    def position(self, name: ModuleName, model: Sequence[int]) -> int:
        """Return the position that a model chooses for a name; -1 when it leaves it out."""
        first = self._first[name]
        at = -1
        for variable in range(first, first + len(self.space.domain(name))):
            if model[variable - 1] < 0:
                break
            at += 1
        return at

    def equal(self, name: ModuleName, position: int) -> list[int]:
        """Return the literals that say that exactly this position is chosen."""
        literals = [self._first[name] + position]
        if position + 1 < len(self.space.domain(name)):
            literals.append(-(self._first[name] + position + 1))
        return literals

    def ordering(self) -> Iterator[Clause]:
        """Yield "at least i+1 implies at least i", and "an extra implies its name"."""
        for name, first in self._first.items():
            for variable in range(first, first + len(self.space.domain(name)) - 1):
                yield [-variable - 1, variable]
        for (name, _), variable in self._extra.items():
            if len(self.space.domain(name)):
                yield [-variable, self._first[name]]

    def demands(self, need: Need) -> list[Clause]:
        """Return the clauses that say that a need is met."""
        return self._demands(need.name, need.extra, self.space.allowed(need))

    def _demands(self, name: ModuleName, extra: str | None, runs: Runs) -> list[Clause]:
        if not runs:
            return [[]]
        first, size = self._first[name], len(self.space.domain(name))
        demands = [[first + runs[0][0]]]
        if runs[-1][1] < size:
            demands.append([-(first + runs[-1][1])])
        for (_, end), (start, _) in itertools.pairwise(runs):
            demands.append([-(first + end), first + start])
        if extra is not None:
            demands.append([self._extra[name, extra]])
        return demands

    def needs(self, wanted: Identifier, at: int) -> Iterator[tuple[Need, Runs]]:
        """Yield what a release needs that it does not meet itself, and what that allows."""
        name, extra = wanted
        release = self.space.domain(name).ascending[at]
        for need in self.space.needs(release, extra):
            runs = self.space.allowed(need)
            own = need.name == name and need.extra in (None, extra)
            if not own or not within(at, runs):
                yield need, runs

    def chosen(self, wanted: Identifier, first: int, last: int) -> Clause:
        """Return the literals of which one holds unless a position in ``first..last`` is chosen."""
        name, extra = wanted
        base = self._first[name]
        clause = [] if extra is None else [-self._extra[wanted]]
        clause.append(-(base + first))
        if last + 1 < len(self.space.domain(name)):
            clause.append(base + last + 1)
        return clause

    def requirements(self) -> Iterator[Clause]:
        """Yield what the releases need; releases in a row with one demand share its clause."""
        for wanted, holders in self._holders.items():
            shared: dict[tuple[int, ...], int] = {}
            for (name, extra, runs), positions in holders.items():
                for demand in self._demands(name, extra, runs):
                    literals = tuple(demand)
                    shared[literals] = shared.get(literals, 0) | positions
            for literals, positions in shared.items():
                for first, end in runs_of(bits(positions)):
                    yield [*self.chosen(wanted, first, end - 1), *literals]

    def all(self) -> Iterator[Clause]:
        """Yield every clause, the roots' included."""
        yield from self.ordering()
        for root in self.roots:
            yield from self.demands(root)
        yield from self.requirements()

    def _reach(self) -> None:
        """Find what can be asked for, from the roots on."""
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
            ask(identifier(root), self.space.allowed(root))
        while pending:
            wanted, new = pending.popleft()
            holders = self._holders.setdefault(wanted, {})
            for at in bits(new):
                for need, runs in self.needs(wanted, at):
                    asked = need.name, need.extra, runs
                    if asked not in holders:
                        holders[asked] = 0
                        ask((need.name, need.extra), runs)
                    holders[asked] |= 1 << at

    def _introduce(self, wanted: Identifier) -> None:
        name, extra = wanted
        if name not in self._first:
            self._first[name] = self._count + 1
            self._count += len(self.space.domain(name))
        if extra is not None:
            self._extra[wanted] = self.new_variable()


def mask_of(runs: Runs) -> int:
    """Return stretches of positions as bits."""
    mask = 0
    for low, high in runs:
        mask |= (1 << high) - (1 << low)
    return mask


def bits(mask: int) -> Iterator[int]:
    """Yield the positions of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
