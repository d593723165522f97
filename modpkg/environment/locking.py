"""From a manifest to a lock: whether the lock is up to date, and resolving it again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from packaging.version import Version

from modpkg.core.errors import InvalidValue
from modpkg.core.files import write_atomically
from modpkg.core.names import module_name, parse_version, requirement_text
from modpkg.environment.generations import ModuleState
from modpkg.environment.logged import CheckedLogs, check_new_releases
from modpkg.environment.policy import (
    cool_downs,
    locked_policy,
    policy_of,
    recorded,
    waits_longer,
)
from modpkg.environment.promise import Lost, lost_versions
from modpkg.environment.registries import Registries
from modpkg.environment.remembered_signers import as_installed, held_signers, signed_otherwise
from modpkg.environment.removed_modules import removed_by_user
from modpkg.environment.signed_registries import log_of, with_seen, without_progress
from modpkg.environment.signers import with_remembered, with_signers
from modpkg.environment.taken_back import heeded, is_held, taken_back
from modpkg.environment.tried_candidates import try_candidates
from modpkg.environment.trust_news import TrustNews, trust_news
from modpkg.environment.workspace import Workspace
from modpkg.manifest.cutoff import parse_moment
from modpkg.manifest.schema import Manifest
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.registry.reader import Registry
from modpkg.resolve.admission import BY_TIME, Admission
from modpkg.resolve.catalog import Release
from modpkg.resolve.lock import Lock, LockedModule, format_lock, lock_of
from modpkg.resolve.need import Need, root_needs
from modpkg.resolve.resolve import Resolution, resolve
from modpkg.toml.node import hint
from modpkg.trust.rules import rule_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

Prefetch = Callable[[Sequence[LockedModule], Mapping[str, Registry], "Executor"], None]
CLOCK_SKEW = timedelta(minutes=10)
"""How far the clocks of a publisher and of this machine may be apart."""


class Locked(Struct, frozen=True):
    """A lock that satisfies a manifest, and what resolving warned of."""

    lock: Lock
    warnings: tuple[str, ...] = ()
    news: tuple[TrustNews, ...] = ()
    """What is new in it in terms of trust."""


def requirements_of(manifest: Manifest) -> list[str]:
    """Return the manifest's requirements in normal spelling, as the lock records them."""
    texts = []
    for dependency in manifest.dependencies:
        requirement = dependency.requirement
        text = requirement_text(requirement.name, requirement.extras, requirement.specifier)
        texts.append(f"{text} @ {dependency.source}" if dependency.source else text)
    return texts


def roots_of(manifest: Manifest) -> list[Need]:
    """Return the resolver's roots, in the manifest's order."""
    users = users_of_modules(manifest)
    return [
        need
        for dependency in manifest.dependencies
        for need in root_needs(
            dependency.name,
            dependency.requirement.extras,
            dependency.requirement.specifier,
            dependency.where,
            asked=dependency.asked,
            users=users.get(dependency.name, ()),
        )
    ]


def users_of_modules(manifest: Manifest) -> dict[str, list[str]]:
    """Return what of a manifest uses each module: its models, ``[compose]`` and tests."""
    users = {f"[models.{model}]": each.modules() for model, each in manifest.models.items()}
    if manifest.compose is not None:
        users["[compose]"] = manifest.compose.modules()
    for test in manifest.tests:
        if test.model is not None and test.model not in manifest.models:
            users[f"the test {test.name!r}"] = [test.model]
    found: dict[str, list[str]] = {}
    for user, modules in users.items():
        for name in dict.fromkeys(modules):
            found.setdefault(name, []).append(user)
    return found


def resolve_lock(
    workspace: Workspace,
    manifest: Manifest,
    previous: Lock | None,
    *,
    upgrade: Iterable[str] | None = (),
    candidates: Mapping[str, int] = MappingProxyType({}),
    meanwhile: Prefetch | None = None,
) -> Locked:
    """Return the lock of a manifest, and pass on warnings; see `make_lock`."""
    workspace.progress.stage("Resolving")
    registries = workspace.registries_for(manifest, previous)
    locked = make_lock(
        manifest,
        registries,
        previous,
        upgrade=upgrade,
        accepted=workspace.options.accepted,
        installed=workspace.environment.ever_installed(),
        is_removed=removed_by_user(workspace.environment, manifest, previous),
        candidates=candidates,
        cools_down=not workspace.is_trial,
        meanwhile=meanwhile,
    )
    pass_on(workspace, manifest, registries, locked)
    return locked


def pass_on(
    workspace: Workspace, manifest: Manifest, registries: Registries, locked: Locked
) -> None:
    """Pass on what a lock warns of, and keep what was seen of its registries."""
    for warning in locked.warnings:
        workspace.progress.warn(warning)
    names: dict[Registry, list[str]] = {}
    for name, registry in registries.by_name(locked.lock).items():
        names.setdefault(registry, []).append(name)
    for registry, seen in names.items():
        registry.keep_seen(seen)
    if not workspace.project.is_user and registries.depend_on_settings(locked.lock):
        workspace.progress.warn(
            f"{manifest.path.name} names no registry, and only your config.toml has the one that "
            "was asked; write it as 'default' under [registries], so that others find it too."
        )


def update_lock(
    workspace: Workspace,
    manifest: Manifest,
    *,
    upgrade: Iterable[str] | None = (),
) -> Locked:
    """Resolve a manifest and write the project's lock file, if it changes; see `make_lock`."""
    previous = workspace.usable_lock()
    locked = resolve_lock(workspace, manifest, previous, upgrade=upgrade)
    write_lock(workspace, locked.lock)
    return locked


def write_lock(workspace: Workspace, lock: Lock) -> None:
    """Write the project's lock file, if it changes."""
    text = format_lock(lock)
    if workspace.lock_text() != text:
        write_atomically(workspace.project.lock_path, text.encode())


def make_lock(
    manifest: Manifest,
    registries: Registries,
    previous: Lock | None,
    *,
    upgrade: Iterable[str] | None = (),
    accepted: Collection[str] = (),
    installed: Sequence[ModuleState] = (),
    is_removed: Callable[[str], bool] = lambda name: False,
    candidates: Mapping[str, int] = MappingProxyType({}),
    cools_down: bool = True,
    meanwhile: Prefetch | None = None,
    now: datetime | None = None,
) -> Locked:
    """Resolve a manifest, keeping the versions of ``previous`` where they fit.

    Args:
        manifest: What to resolve.
        registries: Those of the manifest.
        previous: The lock so far.
        upgrade: Modules whose locked version is not kept; None means all.
        accepted: Modules whose release or registry may be another one than in ``previous``.
        installed: What the generations of the environment have, the newest first.
        is_removed: Returns whether the user has removed a module; see `removed_by_user`.
        candidates: By module, the number of a candidate that is to be tried.
        cools_down: Whether cool-downs of registries count, as they do for what is kept.
        meanwhile: Fetches what is needed next of locked modules, while logs are asked.
        now: The moment that ``exclude-newer`` spans are relative to; the clock's if None.

    Raises:
        ResolutionImpossible: No versions fit together.
        NotFound: A registry lacks a module.
        RegistryError: A registry cannot be read.
        LockError: A registry has another release as a locked version, or none; see `Promise`.
        TrustError: A release is signed by somebody else than it has to be, or is not in the log of
            its registry; see `with_signers` and `check_new_releases`.
    """
    now = now or datetime.now(timezone.utc)
    healed: list[str] = []
    if previous is not None:
        otherwise = signed_otherwise(previous, installed, manifest.trust, accepted)
        signers = held_signers(previous, otherwise, registries.of, manifest.trust)
        previous, healed = as_installed(previous, {**signers.forgotten, **signers.refused})
        healed += signers.notes
    policy = policy_of(manifest, now, previous)
    if not cools_down:
        policy = msgspec.structs.replace(policy, now=None)
    kept = kept_versions(manifest, previous, upgrade)
    known = previous.module if previous is not None else ()
    registries.expect(known)
    again = [module.name for module in known if module.name not in kept]
    tried = try_candidates(registries, previous, kept=kept, asked=candidates, accepted=accepted)
    if asked := {name: None for name in tried.numbers if policy.cools_down(name)}:
        policy = msgspec.structs.replace(policy, cutoffs={**policy.cutoffs, **asked})
    catalog = registries.catalog(again, policy.constraints)
    roots = roots_of(manifest)
    resolution = resolve(roots, catalog, locked=kept, policy=policy)
    lock = lock_of(
        requirements_of(manifest),
        resolution,
        previous.composed if previous is not None else (),
        constraints=recorded(manifest.constraints),
        overrides=recorded(manifest.overrides),
        policy=locked_policy(manifest, policy.cutoff, cool_downs(policy, resolution)),
        address=registries.recorded,
    )
    lock = tried.recorded(lock)
    promise = msgspec.structs.replace(
        registries.promise(previous, installed, accepted), candidates=tried.free
    )
    admission = Admission(roots, kept, policy)
    check_logs: Callable[[], CheckedLogs] = partial(
        check_new_releases,
        *(lock, previous, resolution),
        lambda registry: log_of(registries.locked(registry, previous)),
        admission,
    )
    is_remote = any(one.release.registry.folder is None for one in resolution.modules.values())
    with fetch_pool() if is_remote else nullcontext() as pool:
        if pool is not None:  # logs are asked while signatures are
            check_logs = pool.submit(check_logs).result
        signed = with_signers(
            lock, previous, resolution, manifest, accepted=accepted, installed=installed
        )
        lost: dict[str, Lost] = {}
        before = with_remembered(previous, installed)
        if before.module:

            def refusal(one: Release) -> str | None:
                bound = policy.constraints.get(one.name)
                if bound is not None and not bound.specifier.contains(one.version, True):
                    return None  # so the manifest says
                reason = admission.refusal(catalog, one)
                by_time = reason is not None and reason.startswith(BY_TIME)
                published = one.line.published
                if by_time and (
                    previous is None or waits_longer(manifest, before, one.name, published, now)
                ):
                    return None
                return reason

            def held(was: LockedModule) -> bool:
                rule = rule_of(manifest.trust, was.name)
                if not is_held(was, rule) or admission.prefers_lowest(was.name):
                    return False
                return not is_removed(was.name)

            lost = lost_versions(
                before,
                resolution,
                catalog,
                kept=kept,
                roots=roots,
                refusal=refusal,
                taken_back=lambda was, one: taken_back(
                    was, one, rule_of(manifest.trust, was.name), refusal
                ),
                is_held=held,
                heeds=heeded(before, signed.lock, manifest.trust),
                is_at=registries.is_at,
            )
            lost = {name: one for name, one in lost.items() if name not in tried.free}
        lock = promise.keep(signed.lock, lost, signed.refused)
        if pool is not None and meanwhile is not None:
            meanwhile(lock.module, registries.by_name(lock), pool)
        logs = check_logs()
    chosen = [one.release.registry for one in resolution.modules.values()]
    seen = dict.fromkeys(chosen)
    lock = with_seen(logs.marked(lock), previous, seen, registries, logs.states)
    notes = registries.notes(lock, previous)
    notes += [*healed, *tried.notes, *signed.notes, *(one.sentence for one in lost.values())]
    notes += _warn_future(resolution, previous, now)
    if previous is not None and _equal_but_for_cutoff(previous, lock):
        lock = previous  # a later cut-off that changes nothing is not worth a commit
    warnings = (
        *_warn_strategy_changed(manifest, previous),
        *notes,
        *resolution.warnings,
        *_warn_unknown_upgrades(upgrade, previous, lock),
    )
    news = trust_news(lock, previous, resolution, manifest, installed=installed, now=now)
    return Locked(lock, warnings, tuple(news))


def _warn_future(resolution: Resolution, previous: Lock | None, now: datetime) -> Iterator[str]:
    """Yield a warning for each release, new in the lock, that was published in the future."""
    # Time zones differ by less than a day: an earlier date, or none, is not read any further.
    safe = (now - timedelta(days=2)).date().isoformat()
    for name, chosen in resolution.modules.items():
        line = chosen.release.line
        locked = previous.find(name) if previous is not None else None
        if line.published[:10] < safe or (locked is not None and locked.release == line.release):
            continue
        with suppress(InvalidValue):
            if parse_moment(line.published) > now + CLOCK_SKEW:
                yield (
                    f"{name} {line.version} says that it was published {line.published}, which is "
                    "in the future: this machine's clock or the registry's is wrong, or it lies"
                )


def _warn_strategy_changed(manifest: Manifest, previous: Lock | None) -> list[str]:
    """Return a warning if the earlier lock's versions are dropped (see `kept_versions`)."""
    now = manifest.resolution.strategy
    before = now if previous is None else previous.resolution.strategy
    if before == now:
        return []
    return [f"ignoring the versions in modpkg.lock: strategy was {before} and is {now}"]


def _warn_unknown_upgrades(
    upgrade: Iterable[str] | None, previous: Lock | None, lock: Lock
) -> list[str]:
    """Return a warning for each name to upgrade that nothing requires."""
    locks = [lock] if previous is None else [lock, previous]
    known = {module.name for one in locks for module in one.module}
    return [
        f"cannot upgrade {name!r}: nothing requires it{hint(name, known)}"
        for name in sorted({module_name(name) for name in upgrade or ()})
        if name not in known
    ]


def kept_versions(
    manifest: Manifest, previous: Lock | None, upgrade: Iterable[str] | None
) -> dict[str, Version]:
    """Return the locked versions that a new resolution prefers.

    None are kept if the lock was made with another strategy: keeping them would defeat the new one.
    """
    if previous is None or upgrade is None:
        return {}
    if previous.resolution.strategy != manifest.resolution.strategy:
        return {}
    again = {module_name(name) for name in upgrade}
    return {
        module.name: parse_version(module.version)
        for module in previous.module
        if module.name not in again
    }


def _equal_but_for_cutoff(one: Lock, other: Lock) -> bool:
    plain = [
        msgspec.structs.replace(
            without_progress(lock), resolution=msgspec.structs.replace(lock.resolution, cutoff=None)
        )
        for lock in (one, other)
    ]
    return plain[0] == plain[1]
