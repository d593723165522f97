"""Resolving: from roots and a catalog to one version of each name."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Struct
from packaging.version import Version
from resolvelib import BaseReporter
from resolvelib import ResolutionImpossible as Impossible

from modpkg.core.errors import ResolutionImpossible
from modpkg.core.names import ModuleName
from modpkg.resolve.admission import Admission
from modpkg.resolve.budget import CORE, HELPS, Budget
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.engine import Engine
from modpkg.resolve.explain import explain
from modpkg.resolve.held import held_names
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.policy import Policy
from modpkg.resolve.prefetch import prefetch
from modpkg.resolve.provider import ModuleProvider
from modpkg.resolve.space import Space
from modpkg.resolve.suggest import ResolutionInputs, suggestions
from modpkg.resolve.unsat_core import holding


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
    """Return the newest versions that fit together, keeping those in ``locked`` where it can.

    First an answer is sought that holds what need not move (`modpkg.resolve.held`); where there
    is none, locked versions are only preferred to others. Names are visited breadth first from the
    roots; each takes the newest (or, as ``policy`` has it, the oldest) admitted version for which
    a complete answer still exists. The answer is verified before it is returned.

    Raises:
        ResolutionImpossible: there is no answer; the message explains it.
        NotFound: a root's name is not in its registry.
    """
    policy = policy or Policy()
    kept = locked or {}
    asked = ResolutionInputs(list(roots), policy, catalog.overrides)
    # With a lock, what it has is looked at first, and is nearly always all that is needed.
    prefetch(catalog, [*(root.name for root in roots), *kept], deep=not kept)
    for root in roots:
        if (unknown := catalog.unknown(root.name)) is not None:
            raise unknown
    work = Budget(CORE)
    try:
        return _answer(asked, catalog, kept, explaining=work)
    except Impossible as error:
        trials = _BudgetedResolver(catalog, kept)
        explanation = explain(
            list(error.causes),
            catalog,
            Admission(_needs(asked, catalog), kept, policy),
            suggestions(asked, list(error.causes), trials),
            smallest=not work.spent,
            tried=not trials.budget.spent,
        )
    raise ResolutionImpossible("M401", explanation=explanation)


class _BudgetedResolver:
    """What suggestions are tried with: resolving in earnest, but within a budget."""

    def __init__(self, catalog: Catalog, kept: Mapping[str, Version]) -> None:
        self._catalog = catalog
        self._kept = kept
        self.budget = Budget(HELPS)

    def versions(self, asked: ResolutionInputs) -> dict[str, Version]:
        catalog = self._catalog.overriding(asked.overrides)
        found = _answer(asked, catalog, self._kept, limit=self.budget, explaining=Budget(0))
        return {name: chosen.release.version for name, chosen in found.modules.items()}

    def holding(self, asked: ResolutionInputs) -> list[Need]:
        roots = _needs(asked, self._catalog)
        admission = Admission(roots, self._kept, asked.policy)
        return holding(Space(ModuleProvider(self._catalog, admission, roots)), roots, self.budget)

    def refusals(self, asked: ResolutionInputs, name: str) -> dict[Version, str | None]:
        catalog = self._catalog.overriding(asked.overrides)
        admission = Admission(_needs(asked, catalog), self._kept, asked.policy)
        return {
            release.version: admission.refusal(catalog, release)
            for release in catalog.releases(name)
        }


def _needs(asked: ResolutionInputs, catalog: Catalog) -> list[Need]:
    """Return the roots with the ranges that overrides give them."""
    return [_overridden(root, catalog) for root in asked.roots]


def _answer(
    asked: ResolutionInputs,
    catalog: Catalog,
    kept: Mapping[str, Version],
    *,
    limit: Budget | None = None,
    explaining: Budget,
) -> Resolution:
    """Return the answer, with every held name as the lock has it where that can be.

    Raises:
        resolvelib.ResolutionImpossible, BudgetExceeded.
    """
    roots = _needs(asked, catalog)
    admission = Admission(roots, kept, asked.policy)
    held = held_names(roots, catalog, admission) if kept else frozenset()
    if held:
        holding = Admission(roots, kept, asked.policy, held=held)
        with suppress(Impossible):
            return _resolved(roots, catalog, holding, limit, Budget(0))
    return _resolved(roots, catalog, admission, limit, explaining)


def _resolved(
    roots: Sequence[Need],
    catalog: Catalog,
    admission: Admission,
    limit: Budget | None,
    explaining: Budget,
) -> Resolution:
    provider = ModuleProvider(catalog, admission, roots)
    with _garbage_collection_paused():
        engine = Engine(provider, BaseReporter())
        result = engine.resolve(roots, limit=limit, explaining=explaining)
    return _walk_answer(roots, result.mapping, provider, admission, catalog)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: what resolving allocates stays in use until it is done."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _overridden(root: Need, catalog: Catalog) -> Need:
    """Return a root with the range that an override gives its name."""
    bound = catalog.overrides.get(root.name)
    if bound is None:
        return root
    where = f"{bound.where} (an override)"
    return msgspec.structs.replace(root, specifier=bound.specifier, where=where)


def _walk_answer(
    roots: Sequence[Need],
    mapping: Mapping[Identifier, Candidate],
    provider: ModuleProvider,
    admission: Admission,
    catalog: Catalog,
) -> Resolution:
    """Order the answer breadth first, keep what is reachable, and verify every requirement."""
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
        if admission.refusal(catalog, release) is not None:
            raise AssertionError(f"the engine chose {release}, which is not admitted")
        if need.extra is not None:
            extras.append(need.extra)
            if need.extra not in release.extras:
                warnings.append(f"{release.name} {release.version} has no extra {need.extra!r}")
        pending.extend(provider.dependencies(candidate))
    for release in releases.values():
        if release.line.yanked is not None:
            reason = release.line.yanked or "no reason was given"
            warnings.append(f"{release.name} {release.version} was yanked: {reason}")
    return Resolution(
        modules={
            name: Chosen(releases[name], tuple(sorted(extras))) for name, extras in modules.items()
        },
        warnings=tuple(warnings),
    )
