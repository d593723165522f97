"""The core: a smallest set of needs that cannot hold together.

Each need, of a root or of one release, gets a literal that switches its clauses on. The solver is
asked with all of them on, and says which of them its refutation used. From those, one after the
other is left out for as long as the rest is still refuted (deletion-based minimisation; Marques-
Silva, "Minimal unsatisfiability: models, algorithms and applications", ISMVL 2010). What remains
is minimal: leave any one out, and the rest can be met. It need not be the one with fewest members.
"""

from __future__ import annotations

import time

from resolvelib.resolvers import RequirementInformation

from modpkg.resolve.clauses import Clause, Clauses, bits
from modpkg.resolve.provider import Candidate, Need
from modpkg.resolve.solver import Solver

SECONDS = 5.0
"""Longest time for making a core small; what is left then is told as it is."""

Cause = RequirementInformation[Need, Candidate]


def minimal_core(clauses: Clauses, seconds: float = SECONDS) -> list[Cause]:
    """Return needs that cannot hold together, roots first, then in the order they are reached."""
    switches: dict[int, Cause] = {}
    with Solver() as solver:
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
        core = _minimal(solver, list(switches), time.monotonic() + seconds)
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


def _minimal(solver: Solver, switches: list[int], deadline: float) -> list[int]:
    if solver.ask(switches):
        raise AssertionError("what was refuted can be met, once each need has its switch")
    core = sorted(solver.core())
    # The last ones first: the roots, which a person can change, are the last to be left out.
    for switch in reversed(core.copy()):
        if time.monotonic() > deadline:
            break
        if switch not in core:
            continue
        rest = [other for other in core if other != switch]
        if not solver.ask(rest):
            core = sorted(solver.core())
    return core
