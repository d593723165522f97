"""Resolving: from roots and a catalog to one version of each name."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from msgspec import Struct
from packaging.version import Version
from resolvelib import BaseReporter
from resolvelib import ResolutionImpossible as Impossible

from modpkg.errors import ResolutionImpossible
from modpkg.names import ModuleName
from modpkg.resolve.admission import Admission
from modpkg.resolve.ahead import fetch_ahead
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.engine import Engine
from modpkg.resolve.explain import explain
from modpkg.resolve.keeping import held_names
from modpkg.resolve.policy import Policy
from modpkg.resolve.provider import (
    Candidate,
    Identifier,
    ModuleProvider,
    Need,
)
from modpkg.resolve.suggest import suggestions


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

    First an answer is sought that holds what need not move (`modpkg.resolve.keeping`); where there
    is none, locked versions are only preferred to others. Names are visited breadth first from the
    roots; each takes the newest (or, as ``policy`` has it, the oldest) admitted version for which
    a complete answer still exists. The answer is verified before it is returned.

    Raises:
        ResolutionImpossible: there is no answer; the message explains it.
        UnknownModule: a root's name is not in its registry.
    """
    roots = [_overridden(root, catalog) for root in roots]
    kept = locked or {}
    # With a lock, what it has is looked at first, and is nearly always all that is needed.
    fetch_ahead(catalog, [*(root.name for root in roots), *kept], deep=not kept)
    for root in roots:
        if (unknown := catalog.unknown(root.name)) is not None:
            raise unknown
    admission = Admission(roots, kept, policy)
    held = held_names(roots, catalog, admission) if kept else frozenset()
    if held:
        holding = Admission(roots, kept, policy, held=held)
        if (answer := _keeping(roots, catalog, holding)) is not None:
            return answer
    provider = ModuleProvider(catalog, admission, roots)
    try:
        with _collector_at_rest():
            result = Engine(provider, BaseReporter()).resolve(roots)
    except Impossible as error:
        causes = list(error.causes)

        def attempt(changed: Sequence[Need]) -> Mapping[Identifier, Candidate]:
            trial = ModuleProvider(catalog, Admission(changed, kept, policy), changed)
            return Engine(trial, BaseReporter()).resolve(changed, seconds=0.0).mapping

        helps = suggestions(roots, causes, catalog, admission, attempt)
        raise ResolutionImpossible(explanation=explain(causes, catalog, admission, helps)) from None
    return _walk_answer(roots, result.mapping, provider, admission, catalog)


def _keeping(roots: Sequence[Need], catalog: Catalog, admission: Admission) -> Resolution | None:
    """Return the answer in which every held name keeps its version; None where there is none."""
    provider = ModuleProvider(catalog, admission, roots)
    try:
        with _collector_at_rest():
            result = Engine(provider, BaseReporter()).resolve(roots, seconds=0.0)
    except Impossible:
        return None
    return _walk_answer(roots, result.mapping, provider, admission, catalog)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Keep the garbage collector from going through what is all still in use, now and later."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.freeze()
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
