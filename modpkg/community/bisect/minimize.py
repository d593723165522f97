"""Finding a smallest set of changes that breaks something, with few tests.

The changes are numbered *units* 0, 1, 2 …; a unit may need others, which come before it, and only
sets that have all that their units need are ever tested. Between a set that passes and one that
fails, the units are added one by one in one order, and binary search finds a unit with which a
passing prefix becomes a failing one. It belongs to every failing subset of that prefix; it is kept,
the rest of the prefix is searched again, and so on until what is kept fails by itself.

This is the prefix search of Hemery, Lecoutre, Sais and Boussemart ("Extracting MUCs from
constraint networks", ECAI 2006; the *progression* of Marques-Silva, Janota and Belov, "Minimal sets
over monotone predicates in Boolean formulae", CAV 2013, is its relative), over sets closed under
what each unit needs as in binary reduction (Kalhauge and Palsberg, "Binary reduction of dependency
graphs", ESEC/FSE 2019), with a third outcome, and a check that nothing can be left out, as in delta
debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE
28(2), 2002). Delta debugging itself takes up to n² + 3n tests, and halving (QuickXplain, Junker,
AAAI 2004) up to twice as many as this for a single culprit.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Sequence

from msgspec import Struct

Units = frozenset[int]


class Verdict(enum.Enum):
    """The result of one test."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    """It could not be run, or is inconclusive."""


Test = Callable[[Units], Verdict]


class Smallest(Struct, frozen=True):
    """A set that fails, and from which nothing can be left out, as far as tests could show."""

    units: Units
    culprits: Units
    """The units that no other unit of the set needs; the others are what they need."""
    unproved: Units
    """Culprits for which the set without them could not be tested."""


def smallest_bad(needs: Sequence[Units], test: Test) -> Smallest:
    """Return a smallest set of units that fails.

    It is taken as given that all units together fail, and that no units pass. ``needs[unit]`` are
    all units that a unit needs, transitively; each is smaller than the unit.

    If failing is monotone (supersets of a failing set fail) and each test is good or bad,
    the set is minimal, and with n units and k culprits found there are at most k·(⌈log2 n⌉ + 2)
    tests: for one culprit that needs no other unit, ⌈log2 n⌉ + 1. In any case the set
    was tested to fail (or is all units), and to pass without each culprit but those `unproved`,
    and there are at most n·(3n + 1) tests. The same set may be tested again: ``test`` should
    cache.
    """
    kept: Units = frozenset()
    bad: Units = frozenset(range(len(needs)))
    while True:
        lower, bad = _step(kept, bad, needs, test)
        kept = kept.union(bad - lower, *(needs[unit] for unit in bad - lower))
        if kept == bad or test(kept) is Verdict.BAD:
            return _reduced(kept, needs, test)


def boundary(length: int, test: Callable[[int], Verdict]) -> tuple[int, int]:
    """Return where good turns bad in a range: ``(low, high)``, with high bad and low not.

    0 is taken to be good, and ``length`` to be bad; they are not tested. Without unknown places
    high is low + 1 after at most ⌈log2 length⌉ tests; else all places between them are unknown.
    """
    low, high = 0, length
    unknown: set[int] = set()
    while True:
        marks = sorted({low, high, *(place for place in unknown if low < place < high)})
        gaps = list(itertools.pairwise(marks))
        start, end = max(gaps, key=lambda gap: gap[1] - gap[0])
        if end - start < 2:
            return low, high
        middle = (start + end) // 2
        verdict = test(middle)
        if verdict is Verdict.GOOD:
            low = middle
        elif verdict is Verdict.BAD:
            high = middle
        else:
            unknown.add(middle)


def _step(good: Units, bad: Units, needs: Sequence[Units], test: Test) -> tuple[Units, Units]:
    """Return two nested sets between these: the larger bad, the smaller not.

    They differ by one unit, unless the sets between them were unknown in both orders.
    """
    for order in (_forwards, _backwards):
        rest = order(bad - good, needs)

        def at(count: int, start: Units = good, rest: list[int] = rest) -> Verdict:
            return test(start.union(rest[:count]))

        low, high = boundary(len(rest), at)
        good, bad = good.union(rest[:low]), good.union(rest[:high])
        if high - low == 1:
            break
    return good, bad


def _forwards(units: Units, needs: Sequence[Units]) -> list[int]:
    return sorted(units)


def _backwards(units: Units, needs: Sequence[Units]) -> list[int]:
    """Return units in descending order, but each after those that it needs."""
    left = set(units)
    order: list[int] = []
    while left:
        order.append(max(unit for unit in left if not needs[unit] & left))
        left.remove(order[-1])
    return order


def _reduced(units: Units, needs: Sequence[Units], test: Test) -> Smallest:
    """Leave out units that are not needed to fail; none, if failing is monotone."""
    unproved: set[int] = set()
    tried: set[int] = set()
    while True:
        culprits = frozenset(
            unit for unit in units if not any(unit in needs[other] for other in units)
        )
        left = sorted(culprits - tried)
        if not left or units == frozenset(left[-1:]):
            return Smallest(units, culprits, culprits & unproved)
        unit = left[-1]
        tried.add(unit)
        verdict = test(units - {unit})
        if verdict is Verdict.BAD:
            units -= {unit}
            tried.clear()
            unproved.clear()
        elif verdict is Verdict.UNKNOWN:
            unproved.add(unit)
