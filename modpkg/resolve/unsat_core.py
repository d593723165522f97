"""The core: a smallest set of needs that cannot hold together; and roots that can.

Each need, of a root or of one release, gets a literal that switches its clauses on. The solver is
asked with all of them on, and says which of them its refutation used. From those, one after the
other is left out for as long as the rest is still refuted (deletion-based minimisation; Marques-
Silva, "Minimal unsatisfiability: models, algorithms and applications", ISMVL 2010). What remains
is minimal: leave any one out, and the rest can be met. It need not be the one with fewest members.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from packaging.specifiers import SpecifierSet
from resolvelib.resolvers import RequirementInformation

from modpkg.resolve.budget import Budget, BudgetExceeded
from modpkg.resolve.clauses import Clause, Clauses, bits
from modpkg.resolve.need import Candidate, Need
from modpkg.resolve.solver import Solver
from modpkg.resolve.space import Space

Cause = RequirementInformation[Need, Candidate]


def minimal_core(clauses: Clauses, budget: Budget) -> list[Cause]:
    """Return needs that cannot hold together, roots first, then in the order they are reached.

    Where the budget is spent early, they are more than they have to be; at worst, all the roots.
    """
    switches: dict[int, Cause] = {}
    with Solver(budget) as solver:
        try:
            budget.write(0)
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
            if solver.ask(list(switches)):
                raise AssertionError("what was refuted can be met, once each need has its switch")
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
    # The last ones first: the roots, which a person can change, are the last to be left out.
    for switch in reversed(core.copy()):
        if switch not in core:
            continue
        rest = [other for other in core if other != switch]
        try:
            if not solver.ask(rest):
                core = sorted(solver.core())
        except BudgetExceeded:
            break
    return core


def holding(space: Space, roots: Sequence[Need], budget: Budget) -> list[Need]:
    """Return roots that can hold together, the first ones rather than the last ones.

    They are as many as can be: with any one of the others more, they cannot.

    Raises:
        BudgetExceeded: the budget does not reach for it.
    """
    # A root that is left out bounds nothing: its name is encoded whole.
    free = [msgspec.structs.replace(root, specifier=SpecifierSet()) for root in roots]
    clauses = Clauses(space, free)
    held: dict[int, Need] = {}
    with Solver(budget) as solver:
        solver.add(clauses.ordering())
        solver.add(clauses.requirements())
        budget.write(solver.clauses)
        for root in roots:
            switch = clauses.new_variable()
            solver.add((-switch, *demand) for demand in clauses.demands(root))
            if solver.ask([*held, switch]):
                held[switch] = root
    return list(held.values())
