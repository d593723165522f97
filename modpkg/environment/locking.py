"""From a manifest to a lock: what is asked for, what the lock says already, what is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from packaging.version import Version

from modpkg.core.errors import LockError
from modpkg.core.names import module_name, parse_version, read_requirement, requirement_text
from modpkg.core.records import ReleaseRecord
from modpkg.environment.policy import bounds_of, changed_policy, locked_policy, policy_of, recorded
from modpkg.environment.project import Project
from modpkg.manifest.schema import Manifest
from modpkg.resolve.lock import Lock, format_lock, lock_of
from modpkg.toml.node import hint

if TYPE_CHECKING:
    from modpkg.environment.registries import Registries
    from modpkg.resolve.need import Need


class Locked(Struct, frozen=True):
    """A lock that answers a manifest."""

    lock: Lock
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return format_lock(self.lock)


def requirements_of(manifest: Manifest) -> list[str]:
    """Return the manifest's requirements in normal spelling, as the lock records them."""
    found = []
    for dependency in manifest.dependencies:
        requirement = dependency.requirement
        text = requirement_text(requirement.name, requirement.extras, requirement.specifier)
        found.append(f"{text} @ {dependency.registry}" if dependency.registry else text)
    return found


def roots_of(manifest: Manifest) -> list[Need]:
    """Return the resolver's roots, in the order the manifest has them."""
    from modpkg.resolve.need import root_needs

    return [
        need
        for dependency in manifest.dependencies
        for need in root_needs(
            dependency.name,
            dependency.requirement.extras,
            dependency.requirement.specifier,
            dependency.where,
        )
    ]


def current_lock(project: Project, manifest: Manifest, lock: Lock | None) -> Lock:
    """Return the project's lock, once it is known to answer the manifest.

    Raises:
        LockError.
    """
    if lock is None:
        raise LockError("M411", path=project.lock_path)
    reason = stale_reason(manifest, lock)
    if reason is not None:
        raise LockError("M412", path=project.lock_path, manifest=manifest.path.name, reason=reason)
    return lock


def stale_reason(manifest: Manifest, lock: Lock) -> str | None:
    """Return why a lock does not answer a manifest; None when it does."""
    wanted, had = requirements_of(manifest), lock.requirements
    if wanted == had:
        return changed_policy(manifest, lock)
    for text in wanted:
        if text not in had:
            return f"{text} was added or changed"
    for text in had:
        if text not in wanted:
            return f"{text} was removed or changed"
    return "the requirements are in another order"


def check_closed(
    lock: Lock, records: Mapping[str, ReleaseRecord], manifest: Manifest, path: Path
) -> None:
    """Check that a lock says of its releases what their records say, and has all that they need.

    Raises:
        LockError: it was edited, or made from an index that lied.
    """
    overrides = bounds_of(manifest.overrides)
    asked: dict[str, set[str]] = {}
    for dependency in manifest.dependencies:
        asked.setdefault(dependency.name, set()).update(dependency.requirement.extras)
    for module in lock.module:
        record = records[module.name]
        if module.requires != record.requires:
            reason = f"{module.name} {module.version} does not have the requirements that it names"
            raise LockError("M410", path=path, reason=reason)
        groups = _groups(record)
        for text in [*record.requires, *(t for e in module.extras for t in groups.get(e, []))]:
            wanted = read_requirement(text)
            found = lock.find(wanted.name)
            bound = overrides.get(wanted.name)
            specifier = wanted.specifier if bound is None else bound.specifier
            extras = set(map(module_name, wanted.extras))
            asked.setdefault(wanted.name, set()).update(extras)
            if (
                found is None
                or not specifier.contains(found.version, prereleases=True)
                or not extras <= set(found.extras)
            ):
                reason = f"{module.name} {module.version} requires {text}, which it does not have"
                raise LockError("M410", path=path, reason=reason)
    for module in lock.module:
        # An extra that the release lacks asks for nothing, and resolving has warned of it.
        known = _groups(records[module.name]).keys() | asked.get(module.name, set())
        if strange := sorted(set(module.extras) - known):
            reason = f"{module.name} {module.version} has no extra {strange[0]!r}"
            raise LockError("M410", path=path, reason=reason)


def _groups(record: ReleaseRecord) -> dict[str, list[str]]:
    """Return a release's extras by their normal names."""
    return {str(module_name(extra)): texts for extra, texts in record.extras.items()}


def make_lock(
    manifest: Manifest,
    registries: Registries,
    previous: Lock | None,
    *,
    upgrade: Iterable[str] | None = (),
    now: datetime | None = None,
) -> Locked:
    """Resolve a manifest, keeping what ``previous`` has where it can.

    ``upgrade`` names modules whose locked version is not kept; None means all. ``now`` is the
    moment that spans of a cool-down are counted back from.

    Raises:
        ResolutionImpossible, NotFound, and what reading a registry raises.
    """
    from modpkg.resolve.resolve import resolve  # `lock --check` does without

    policy = policy_of(manifest, now or datetime.now(timezone.utc))
    kept = kept_versions(manifest, previous, upgrade)
    resolution = resolve(roots_of(manifest), registries.catalog(), locked=kept, policy=policy)
    lock = lock_of(
        requirements_of(manifest),
        resolution,
        previous.composed if previous is not None else (),
        constraints=recorded(manifest.constraints),
        overrides=recorded(manifest.overrides),
        policy=locked_policy(manifest, policy.cutoff),
    )
    if previous is not None and _same_but_cutoff(previous, lock):
        lock = previous  # a later cut-off that changes nothing is no change worth committing
    warnings = (
        *_set_aside(manifest, previous),
        *resolution.warnings,
        *_in_vain(upgrade, previous, lock),
    )
    return Locked(lock, warnings)


def _set_aside(manifest: Manifest, previous: Lock | None) -> list[str]:
    """Return a warning where nothing of the earlier lock is kept (see `kept_versions`)."""
    now = manifest.resolution.strategy
    before = now if previous is None else previous.resolution.strategy
    return [f"modpkg.lock is resolved anew: strategy was {before} and is {now}"] * (before != now)


def _in_vain(upgrade: Iterable[str] | None, previous: Lock | None, lock: Lock) -> list[str]:
    """Return a warning for each name that was to be upgraded and is not there."""
    locks = [lock] if previous is None else [lock, previous]
    known = {module.name for one in locks for module in one.module}
    return [
        f"nothing needs {name!r}, so there is nothing of it to upgrade{hint(name, known)}"
        for name in sorted({module_name(name) for name in upgrade or ()})
        if name not in known
    ]


def kept_versions(
    manifest: Manifest, previous: Lock | None, upgrade: Iterable[str] | None
) -> dict[str, Version]:
    """Return the locked versions that a new resolution prefers.

    None are kept where the lock was made with another strategy: keeping them would undo the one
    that is asked for now.
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


def _same_but_cutoff(one: Lock, other: Lock) -> bool:
    plain = [
        msgspec.structs.replace(
            lock, resolution=msgspec.structs.replace(lock.resolution, cutoff=None)
        )
        for lock in (one, other)
    ]
    return plain[0] == plain[1]
