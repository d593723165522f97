"""Minimal sets of needs that conflict, and a maximal set of roots that do not.

Each need, of a root or of one release, gets a literal that enables its clauses. The solver is
queried with all of them enabled, and returns those that its refutation used. Of these, one after
the other is removed as long as the rest is still refuted (deletion-based minimisation; Marques-
Silva, "Minimal unsatisfiability: models, algorithms and applications", ISMVL 2010). What remains is
minimal: without any one of them, the rest is satisfiable. There may be a smaller set.

A model of the rest shows that the need that was removed is necessary. So are those of the same
module's other versions that would be the only ones that are not met, were that version chosen: one
query settles thousands of versions with a bound each (model rotation; Marques-Silva and Lynce, "On
improving MUS extraction algorithms", SAT 2011).

A mistake that has nothing to do with the first is found by asking again without the needs that
limit something in the first set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from packaging.specifiers import SpecifierSet
from resolvelib.resolvers import RequirementInformation, ResolutionImpossible

from modpkg.core.names import ModuleName
from modpkg.resolve.budget import Budget, BudgetExceeded
from modpkg.resolve.clauses import Clause, Clauses
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.order import bits, mask_of, within
from modpkg.resolve.solver import Solver
from modpkg.resolve.space import Space

Cause = RequirementInformation[Need, Candidate]

MOST_FRUITLESS = 20
"""Models that are rotated without finding anything, before it is given up."""
MOST_CONFLICTS = 20
"""Most conflicts that are reported at once."""


class NoSolution(ResolutionImpossible[Need, Candidate]):
    """There is no solution; ``causes`` are the needs of the first conflict.

    Attributes:
        conflicts: The needs of each conflict; none has to do with another.
    """

    def __init__(self, conflicts: Sequence[Sequence[Cause]]) -> None:
        super().__init__(list(conflicts[0]))
        self.conflicts = conflicts


def minimal_cores(clauses: Clauses, budget: Budget) -> list[list[Cause]]:
    """Return sets of needs that conflict, each roots first, then in the order of reaching them.

    If the budget is spent, the last set is not minimal, and there may be more; at worst, there is
    one of all the roots.
    """
    switches: dict[int, Cause] = {}
    with Solver(budget) as solver:
        try:
            budget.charge_clauses(0)
            solver.add(clauses.ordering())
            for root in clauses.roots:
                _switched(solver, clauses, switches, RequirementInformation(root, None), ())
            for wanted, reached in clauses.reached.items():
                name, extra = wanted
                for at in bits(reached):
                    candidate = Candidate(clauses.space.domain(name).ascending[at], extra)
                    condition = clauses.otherwise(wanted, at, at)
                    for need, _ in clauses.needs(wanted, at):
                        cause = RequirementInformation(need, candidate)
                        _switched(solver, clauses, switches, cause, condition)
            if solver.solve(list(switches)):
                raise AssertionError("the clauses were refuted, and are satisfiable with switches")
        except BudgetExceeded:
            return [[RequirementInformation(root, None) for root in clauses.roots]]
        cores: list[list[Cause]] = []
        left = dict(switches)
        try:
            while True:
                core = sorted(solver.core())
                core = _minimal(solver, clauses, core, switches)
                cores.append([switches[switch] for switch in core])
                limiting = [s for s in core if _limits(switches[s].requirement, clauses)]
                for switch in limiting or core:
                    del left[switch]
                if len(cores) == MOST_CONFLICTS or solver.solve(list(left)):
                    break
        except BudgetExceeded:
            pass
    return cores


def _limits(need: Need, clauses: Clauses) -> bool:
    """Return whether a need does not allow every version of its name, or there is none."""
    everything = len(clauses.space.domain(need.name))
    return need.exact is None and clauses.space.allowed(need) != ((0, everything),)


def _switched(
    solver: Solver,
    clauses: Clauses,
    switches: dict[int, Cause],
    cause: Cause,
    condition: Clause,
) -> None:
    switch = clauses.new_variable()
    switches[switch] = cause
    solver.add((-switch, *condition, *demand) for demand in clauses.demands(cause.requirement))


def _minimal(
    solver: Solver, clauses: Clauses, core: list[int], switches: Mapping[int, Cause]
) -> list[int]:
    needed: set[int] = set()
    fruitless = 0
    # Backwards: the roots, which a person can change, are removed last.
    for switch in reversed(core.copy()):
        if switch not in core or switch in needed:
            continue
        rest = [other for other in core if other != switch]
        try:
            if solver.solve(rest):
                needed.add(switch)
                if fruitless < MOST_FRUITLESS:
                    found = _rotated(clauses, core, switches, switch, solver.model())
                    fruitless += found <= needed
                    needed |= found
            else:
                core = sorted(solver.core())
        except BudgetExceeded:
            break
    return core


def _rotated(
    clauses: Clauses,
    core: Sequence[int],
    switches: Mapping[int, Cause],
    missing: int,
    model: Sequence[int],
) -> set[int]:
    """Return needs that are necessary, given a model in which only ``missing`` is not met.

    They belong to other versions of the same module: each is the only need that is not met, were
    that version in the place of the model's.
    """
    parent = switches[missing].parent
    if parent is None:
        return set()
    moved = parent.release.name
    chosen = _Chosen(clauses, model)
    allowed = -1
    own: dict[int, list[int]] = {}
    for switch in core:
        need, owner = switches[switch].requirement, switches[switch].parent
        if owner is not None and owner.release.name == moved:
            if chosen.is_wanted((moved, owner.extra)):
                at = clauses.space.domain(moved).position[owner.release]
                own.setdefault(at, []).append(switch)
        elif need.name == moved and (owner is None or chosen.has(owner)):
            allowed &= mask_of(clauses.space.allowed(need))
    found: set[int] = set()
    for at, needs in own.items():
        if allowed >> at & 1:
            unmet = [s for s in needs if not chosen.meets(switches[s].requirement, at)]
            if len(unmet) == 1:
                found.add(unmet[0])
    return found


class _Chosen:
    """What a model chooses; each position is looked up once."""

    def __init__(self, clauses: Clauses, model: Sequence[int]) -> None:
        self._clauses = clauses
        self._model = model
        self._positions: dict[ModuleName, int] = {}

    def is_wanted(self, identifier: Identifier) -> bool:
        return self._clauses.is_wanted(identifier, self._model)

    def position(self, name: ModuleName) -> int:
        if name not in self._positions:
            self._positions[name] = self._clauses.position(name, self._model)
        return self._positions[name]

    def has(self, candidate: Candidate) -> bool:
        name = candidate.release.name
        at = self._clauses.space.domain(name).position[candidate.release]
        return self.is_wanted((name, candidate.extra)) and self.position(name) == at

    def meets(self, need: Need, own: int) -> bool:
        """Return whether it meets a need of a module whose position is ``own`` instead."""
        if not self.is_wanted(need.identifier):
            return False
        itself = need.parent is not None and need.parent.name == need.name
        at = own if itself else self.position(need.name)
        return within(at, self._clauses.space.allowed(need))


def holding(space: Space, roots: Sequence[Need], budget: Budget) -> list[Need]:
    """Return a maximal set of roots that have a solution, preferring the first ones.

    Raises:
        BudgetExceeded: The budget is spent.
    """
    # A root that is removed limits nothing: all releases of its name are encoded.
    free = [msgspec.structs.replace(root, specifier=SpecifierSet()) for root in roots]
    clauses = Clauses(space, free)
    held: dict[int, Need] = {}
    with Solver(budget) as solver:
        solver.add(clauses.ordering())
        solver.add(clauses.requirements())
        budget.charge_clauses(solver.clauses)
        for root in roots:
            switch = clauses.new_variable()
            solver.add((-switch, *demand) for demand in clauses.demands(root))
            if solver.solve([*held, switch]):
                held[switch] = root
    return list(held.values())
