"""What the engine is compared with. Nothing here uses the engine's own reading of ranges.

Admission (which releases may be chosen at all, and which are preferred) is taken as given; it has
tests of its own.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping

from packaging.version import Version
from pysat.solvers import Minisat22

from modpkg.core.interface import unfit_reason
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Need, dependencies
from tests.resolve.graphs import EXPECTS, PROVIDES, Graph


class Rules:
    """A graph's rules, spelled out as plainly as can be."""

    def __init__(self, graph: Graph) -> None:
        self.roots = graph.needs()
        self.catalog: Catalog = graph.catalog()
        locked = {name: Version(version) for name, version in graph.locked.items()}
        self.admission = Admission(self.roots, locked)
        self.names = sorted({line.name for line in graph.lines})

    def releases(self, name: str) -> list[Release]:
        return self.admission.releases(self.catalog, name)

    def meets(self, need: Need, release: Release) -> bool:
        if need.exact is not None and release.version != need.exact:
            return False
        if not need.specifier.contains(release.version, prereleases=True):
            return False
        if need.parent is None:
            return True
        expects = need.parent.line.expects.get(need.name)
        if expects is None:
            return True
        provides = release.line.provides
        return provides is not None and unfit_reason(EXPECTS[expects], PROVIDES[provides]) is None

    def closure(self, choice: Mapping[str, Release]) -> list[str] | None:
        """Return the names that the roots reach, breadth first; None when a need is not met."""
        found: list[str] = []
        seen = set()
        pending = deque(self.roots)
        while pending:
            need = pending.popleft()
            release = choice.get(need.name)
            if release is None or not self.meets(need, release):
                return None
            if need.name not in found:
                found.append(need.name)
            if (need.name, need.extra) not in seen:
                seen.add((need.name, need.extra))
                pending.extend(dependencies(Candidate(release, need.extra)))
        return found


def brute_force(rules: Rules) -> dict[str, Release] | None:
    """Return the preferred answer, found by looking at every assignment there is."""
    options = [rules.releases(name) for name in rules.names]
    names = [name for name, found in zip(rules.names, options, strict=True) if found]
    answers = []
    for combination in itertools.product(*(found for found in options if found)):
        choice = dict(zip(names, combination, strict=True))
        closure = rules.closure(choice)
        if closure is not None:
            answers.append((choice, closure))
    if not answers:
        return None
    place = 0
    # The order in which names are visited depends only on the choices made before.
    while place < len(answers[0][1]):
        name = answers[0][1][place]
        assert all(closure[place] == name for _, closure in answers)
        preferred = rules.releases(name)
        best = min(preferred.index(choice[name]) for choice, _ in answers)
        answers = [
            (choice, closure) for choice, closure in answers if choice[name] is preferred[best]
        ]
        place += 1
    choice, closure = answers[0]
    return {name: choice[name] for name in closure}


def assignments(rules: Rules) -> int:
    """Return how many assignments `brute_force` would look at."""
    count = 1
    for name in rules.names:
        count *= max(1, len(rules.releases(name)))
    return count


def satisfiable(rules: Rules) -> bool:
    """Return whether there is a solution, by a plain encoding with one variable per release."""
    fresh = itertools.count(1)
    chosen: dict[Release, int] = {}
    extras: dict[tuple[str, str], int] = {}
    clauses: list[list[int]] = []
    pending: deque[tuple[str, str | None]] = deque()
    seen = set()

    def clause(condition: list[int], need: Need) -> None:
        if need.name not in known:
            known[need.name] = rules.releases(need.name)
            for release in known[need.name]:
                chosen[release] = next(fresh)
            for one, other in itertools.combinations(known[need.name], 2):
                clauses.append([-chosen[one], -chosen[other]])
        good = [chosen[r] for r in known[need.name] if rules.meets(need, r)]
        clauses.append([*condition, *good])
        if need.extra is not None:
            key = need.name, need.extra
            if key not in extras:
                extras[key] = next(fresh)
            clauses.append([*condition, extras[key]])
        if (need.name, need.extra) not in seen:
            seen.add((need.name, need.extra))
            pending.append((need.name, need.extra))

    known: dict[str, list[Release]] = {}
    for root in rules.roots:
        clause([], root)
    while pending:
        name, extra = pending.popleft()
        for release in known[name]:
            condition = [-chosen[release]]
            if extra is not None:
                condition.append(-extras[name, extra])
            for need in dependencies(Candidate(release, extra)):
                clause(condition, need)
    with Minisat22(bootstrap_with=clauses) as solver:
        return bool(solver.solve())
