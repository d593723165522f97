"""A minimal set of needs that conflict, and a maximal set of roots that do not.

Each need, of a root or of one release, gets a literal that enables its clauses. The solver is
queried with all of them enabled, and returns those that its refutation used. Of these, one after
the other is removed as long as the rest is still refuted (deletion-based minimisation; Marques-
Silva, "Minimal unsatisfiability: models, algorithms and applications", ISMVL 2010). What remains is
minimal: without any one of them, the rest is satisfiable. There may be a smaller set.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from packaging.specifiers import SpecifierSet
from resolvelib.resolvers import RequirementInformation

from modpkg.resolve.budget import Budget, BudgetExceeded
from modpkg.resolve.clauses import Clause, Clauses
from modpkg.resolve.need import Candidate, Need
from modpkg.resolve.order import bits
from modpkg.resolve.solver import Solver
from modpkg.resolve.space import Space

Cause = RequirementInformation[Need, Candidate]


def minimal_core(clauses: Clauses, budget: Budget) -> list[Cause]:
    """Return needs that conflict, roots first, then in the order in which they are reached.

    If the budget is spent, the set is not minimal; at worst, it is all the roots.
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
            return [RequirementInformation(root, None) for root in clauses.roots]
        core = _minimal(solver, sorted(solver.core()))
    return [switches[switch] for switch in core]


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


def _minimal(solver: Solver, core: list[int]) -> list[int]:
    # Backwards: the roots, which a person can change, are removed last.
    for switch in reversed(core.copy()):
        if switch not in core:
            continue
        rest = [other for other in core if other != switch]
        try:
            if not solver.solve(rest):
                core = sorted(solver.core())
        except BudgetExceeded:
            break
    return core


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
