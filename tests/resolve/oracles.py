"""What the engine is compared with. Nothing here uses the engine's own reading of ranges.

Admission (which releases may be chosen at all) is taken as given; it has tests of its own. Which of
them is preferred, and in which order names are visited, is spelled out here.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping

from packaging.version import Version
from pysat.solvers import Minisat22

from modpkg.core.interface import drift_of, unfit_reason
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Need, dependencies
from tests.resolve.graphs import EXPECTS, PROVIDES, Graph


class Rules:
    """A graph's rules, spelled out as plainly as can be."""

    def __init__(self, graph: Graph) -> None:
        self.roots = graph.needs()
        self.catalog: Catalog = graph.catalog()
        self.locked = {name: Version(version) for name, version in graph.locked.items()}
        self.policy = graph.policy
        self.admission = Admission(self.roots, self.locked, graph.policy)
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
        if provides is None or unfit_reason(EXPECTS[expects], PROVIDES[provides]) is not None:
            return False
        return not self.policy.strict or self.exact(need.parent, release)

    def exact(self, module: Release, base: Release) -> bool:
        if base.line.provides is None:
            return False
        expects, provides = EXPECTS[module.line.expects[base.name]], PROVIDES[base.line.provides]
        return drift_of(expects, provides, base.registry.record(base.line).tensors).exact

    def waits(self, name: str) -> bool:
        return self.policy.fit == "exact-first" and any(
            release.line.provides is not None for release in self.releases(name)
        )

    def visited(self, choice: Mapping[str, Release]) -> dict[str, set[Release]]:
        """Return the names in the order of visits, each with the modules that expect it by then."""
        found: dict[str, set[Release]] = {}
        expecting: dict[str, set[Release]] = {}
        asked: list[tuple[str, str | None]] = []
        done: set[tuple[str, str | None]] = set()
        needs = list(self.roots)
        while True:
            for need in needs:
                asked.append((need.name, need.extra))
                if need.parent is not None and need.name in need.parent.line.expects:
                    expecting.setdefault(need.name, set()).add(need.parent)
            left = [identifier for identifier in asked if identifier not in done]
            if not left:
                return found
            name, extra = next((one for one in left if not self.waits(one[0])), left[0])
            done.add((name, extra))
            found.setdefault(name, set(expecting.get(name, ())))
            needs = dependencies(Candidate(choice[name], extra))

    def prefers(self, modules: set[Release], name: str) -> list[Release]:
        """Return the releases of a name, the preferred first, given what expects it."""
        found = sorted(self.releases(name), key=lambda release: release.version)
        lowest = self.policy.strategy == "lowest" or (
            self.policy.strategy == "lowest-direct" and name in {root.name for root in self.roots}
        )
        if not lowest:
            found.reverse()

        def key(release: Release) -> tuple[bool, bool, int]:
            early = release.version.is_prerelease and name not in self.policy.prereleases
            drifting = [
                module
                for module in modules
                if self.policy.fit == "exact-first" and not self.exact(module, release)
            ]
            return release.version != self.locked.get(name), early, len(drifting)

        return sorted(found, key=key)

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
            answers.append((choice, closure, rules.visited(choice)))
    if not answers:
        return None
    place = 0
    # The order in which names are visited depends only on the choices made before.
    while place < len(answers[0][2]):
        name, modules = list(answers[0][2].items())[place]
        assert all([*visits][place] == name for _, _, visits in answers)
        preferred = rules.prefers(modules, name)
        best = min(preferred.index(choice[name]) for choice, _, _ in answers)
        answers = [answer for answer in answers if answer[0][name] is preferred[best]]
        place += 1
    choice, closure, _ = answers[0]
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
