"""Resolves roots to one version of each name in a catalog."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

import msgspec
from msgspec import Struct
from packaging.version import Version
from resolvelib import BaseReporter
from resolvelib import ResolutionImpossible as Impossible

from modpkg.core.errors import NotFound, ResolutionImpossible
from modpkg.core.home import config_path
from modpkg.core.names import ModuleName, listed
from modpkg.registry.allowance import RAISED
from modpkg.registry.standing import deprecation
from modpkg.resolve.admission import Admission
from modpkg.resolve.budget import CORE_BUDGET, SUGGESTION_BUDGET, Budget, BudgetExceeded
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.engine import Engine
from modpkg.resolve.held import held_names
from modpkg.resolve.inputs import ResolutionInputs
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.policy import Policy
from modpkg.resolve.prefetch import prefetch_likely
from modpkg.resolve.provider import ModuleProvider
from modpkg.resolve.space import Space


class Chosen(Struct, frozen=True):
    """One module of a resolution."""

    release: Release
    extras: tuple[str, ...]


class Resolution(Struct, frozen=True):
    """One version of every name that is needed, breadth first from the roots."""

    modules: dict[ModuleName, Chosen]
    warnings: tuple[str, ...]


def resolve(
    roots: Sequence[Need],
    catalog: Catalog,
    *,
    locked: Mapping[str, Version] | None = None,
    policy: Policy | None = None,
    warn: Callable[[str], None] | None = None,
) -> Resolution:
    """Return the newest versions that satisfy all needs, keeping ``locked`` ones if possible.

    First a solution is sought in which every name that need not move (`modpkg.resolve.held`) is
    held; if there is none, locked versions are only preferred. Names are visited breadth first from
    the roots, and each gets the newest (or by ``policy`` the oldest) admitted version for which
    there is still a complete solution. The solution is verified before it is returned.

    Raises:
        ResolutionImpossible: There is no solution; the message explains why.
        NotFound: A root's name is not in its registry.
    """
    policy = policy or Policy()
    locked = locked or {}
    inputs = ResolutionInputs(list(roots), policy, catalog.overrides)
    problem = _Problem(inputs, catalog, locked)
    prefetch_likely(problem.space, problem.roots, locked)
    _check_known(roots, catalog)
    work = Budget(CORE_BUDGET)
    try:
        solution = problem.solution(Budget(catalog.solver_work), explaining=work)
        catalog.check_budgets()
        return solution
    except BudgetExceeded:
        raise ResolutionImpossible(
            "M403",
            most=f"{catalog.solver_work:,}",
            more=RAISED * catalog.solver_work,
            roots=listed([str(root.name) for root in roots]),
            config=config_path(),
        ) from None
    except Impossible as error:
        catalog.check_budgets()
        explanation = _explanation(error, problem.space, inputs, locked, smallest=not work.exceeded)
    finally:
        catalog.warn_of_lost()
    raise ResolutionImpossible("M401", explanation=explanation)


def _explanation(
    error: Impossible[Need, Candidate],
    space: Space,
    inputs: ResolutionInputs,
    locked: Mapping[str, Version],
    *,
    smallest: bool,
) -> str:
    """Return why there is no solution, and what would help."""
    # Slow to import, and hardly any resolution needs them.
    from modpkg.resolve.explain import explain
    from modpkg.resolve.suggest import suggestions
    from modpkg.resolve.unsat_core import NoSolution

    resolver = _BudgetedResolver(space.provider.catalog, locked)
    conflicts = error.conflicts if isinstance(error, NoSolution) else [list(error.causes)]
    return explain(
        conflicts,
        space,
        suggestions(inputs, conflicts, resolver),
        smallest=smallest,
        tried=not resolver.budget.exceeded,
    )


_SHOWN_NAMES = 20
"""Unknown names that one error reports."""


def _check_known(roots: Sequence[Need], catalog: Catalog) -> None:
    """Check that each root's name is in its registry.

    Raises:
        NotFound: Some are not; all of them are reported together.
    """
    unknown: dict[str, tuple[str, NotFound]] = {}
    for root in roots:
        if root.name not in unknown and (error := catalog.unknown(root.name)) is not None:
            unknown[root.name] = root.where, error
    if len(unknown) == 1:
        ((where, error),) = unknown.values()
        if where:
            needs, hint = f" ({where} needs it)", error.values["hint"]
            hint = hint + needs if hint.startswith(" ") else needs + hint
            error = NotFound("M304", **{**error.values, "hint": hint})
        raise error
    if unknown:
        facts = [
            f"  {where}: {error}" if where else f"  {error}"
            for where, error in islice(unknown.values(), _SHOWN_NAMES)
        ]
        if more := len(unknown) - len(facts):
            facts.append(f"  … and {more} more")
        raise NotFound("M406", facts="\n".join(facts))


class _Problem:
    """What is to be resolved: the roots after overrides, and what may be chosen for them."""

    def __init__(
        self, inputs: ResolutionInputs, catalog: Catalog, locked: Mapping[str, Version]
    ) -> None:
        self.roots = [_overridden(root, catalog) for root in inputs.roots]
        self._catalog = catalog
        self._locked = locked
        self._policy = inputs.policy
        self.admission = Admission(self.roots, locked, inputs.policy)
        self.space = self._space(self.admission)

    def _space(self, admission: Admission) -> Space:
        return Space(ModuleProvider(self._catalog, admission, self.roots))

    def solution(self, limit: Budget, *, explaining: Budget) -> Resolution:
        """Return the solution, with every held name at its locked version if possible.

        Raises:
            resolvelib.ResolutionImpossible: There is no solution.
            BudgetExceeded: ``limit`` is reached.
        """
        catalog, locked = self._catalog, self._locked
        held = held_names(self.roots, catalog, self.admission) if locked else frozenset()
        if held:
            holding = Admission(self.roots, locked, self._policy, held=held)
            with suppress(Impossible):
                return self._resolved(self._space(holding), limit, Budget(0))
        return self._resolved(self.space, limit, explaining)

    def _resolved(self, space: Space, limit: Budget, explaining: Budget) -> Resolution:
        with _garbage_collection_paused():
            engine = Engine(space, BaseReporter())
            chosen = engine.chosen(self.roots, limit=limit, explaining=explaining)
        return _ordered_and_verified(self.roots, chosen, space)


class _BudgetedResolver:
    """Resolves what suggestions change, with one budget for all of them."""

    def __init__(self, catalog: Catalog, locked: Mapping[str, Version]) -> None:
        self._catalog = catalog
        self._locked = locked
        self.budget = Budget(SUGGESTION_BUDGET)

    def chosen(self, inputs: ResolutionInputs) -> dict[str, Release]:
        problem = self._problem(inputs)
        solution = problem.solution(self.budget, explaining=Budget(0))
        return {name: chosen.release for name, chosen in solution.modules.items()}

    def drift(self, parent: Release, release: Release) -> str | None:
        return self._catalog.drift(parent, release)

    def holding(self, inputs: ResolutionInputs) -> list[Need]:
        from modpkg.resolve.unsat_core import holding

        problem = self._problem(inputs)
        return holding(problem.space, problem.roots, self.budget)

    def refusals(self, inputs: ResolutionInputs, name: str) -> dict[Version, str | None]:
        problem = self._problem(inputs)
        catalog = problem.space.provider.catalog
        releases = catalog.releases(name)
        self.budget.charge_clauses(len(releases))  # to look at one takes as long as a clause
        return {one.version: problem.admission.refusal(catalog, one) for one in releases}

    def _problem(self, inputs: ResolutionInputs) -> _Problem:
        return _Problem(inputs, self._catalog.overriding(inputs.overrides), self._locked)


_frozen = False
"""Whether what the collector passes over is from a resolution."""


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: what resolving allocates stays in use until it is done.

    After it, the collector passes over all of that until the next resolution.
    """
    global _frozen
    running = gc.isenabled()
    gc.disable()
    if _frozen:
        gc.unfreeze()
    _frozen = running
    try:
        yield
    finally:
        if _frozen:
            gc.freeze()
        if running:
            gc.enable()


def _overridden(root: Need, catalog: Catalog) -> Need:
    """Return a root after overrides."""
    bound = catalog.overrides.get(root.name)
    if bound is None:
        return root
    where = f"{bound.where} (an override)"
    return msgspec.structs.replace(root, specifier=bound.specifier, where=where)


def _ordered_and_verified(
    roots: Sequence[Need],
    mapping: Mapping[Identifier, Candidate],
    space: Space,
) -> Resolution:
    """Order the solution breadth first, keep what is reachable, and verify every need."""
    provider = space.provider
    modules: dict[ModuleName, list[str]] = {}
    releases: dict[ModuleName, Release] = {}
    warnings: list[str] = []
    seen: set[Identifier] = set()
    pending = deque(roots)
    while pending:
        need = pending.popleft()
        identifier = (need.name, need.extra)
        candidate = mapping[identifier]
        if not provider.is_satisfied_by(need, candidate):
            raise AssertionError(f"the engine chose {candidate.release} against {need}")
        release = releases.setdefault(need.name, candidate.release)
        if release is not candidate.release:
            raise AssertionError(f"the engine chose two versions of {need.name}")
        extras = modules.setdefault(need.name, [])
        if identifier in seen:
            continue
        seen.add(identifier)
        if provider.admission.refusal(provider.catalog, release) is not None:
            raise AssertionError(f"the engine chose {release}, which is not admitted")
        if need.extra is not None:
            extras.append(need.extra)
            if need.extra not in release.extras:
                warnings.append(f"{release.name} {release.version} has no extra {need.extra!r}")
        pending.extend(space.needs(release, need.extra))
    for release in releases.values():
        if release.line.yanked is not None:
            reason = release.line.yanked or "no reason was given"
            warnings.append(f"{release.name} {release.version} was yanked: {reason}")
        if (note := deprecation(release.line)) is not None:
            warnings.append(f"{release.name} {release.version} {note}")
    return Resolution(
        modules={
            name: Chosen(releases[name], tuple(sorted(extras))) for name, extras in modules.items()
        },
        warnings=tuple(warnings),
    )
