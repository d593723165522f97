"""From a manifest to a lock: what is asked for, what the lock says already, what is resolved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.errors import LockMissing, LockStale
from modpkg.lock import Lock, format_lock, lock_of
from modpkg.manifest import Manifest
from modpkg.names import parse_version, requirement_text
from modpkg.resolve.provider import Need, root_needs
from modpkg.resolve.resolve import resolve


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
        LockMissing, LockStale.
    """
    if lock is None:
        raise LockMissing(path=project.lock_path)
    reason = stale_reason(manifest, lock)
    if reason is not None:
        raise LockStale(path=project.lock_path, manifest=manifest.path.name, reason=reason)
    return lock


def stale_reason(manifest: Manifest, lock: Lock) -> str | None:
    """Return why a lock does not answer a manifest; None when it does."""
    wanted, had = requirements_of(manifest), lock.requirements
    if wanted == had:
        return None
    for text in wanted:
        if text not in had:
            return f"{text} was added or changed"
    for text in had:
        if text not in wanted:
            return f"{text} was removed or changed"
    return "the requirements are in another order"


def make_lock(
    manifest: Manifest,
    registries: Registries,
    previous: Lock | None,
    *,
    upgrade: Iterable[str] | None = (),
) -> Locked:
    """Resolve a manifest, keeping what ``previous`` has where it can.

    ``upgrade`` names modules whose locked version is not kept; None means all.

    Raises:
        ResolutionImpossible, UnknownModule, and what reading a registry raises.
    """
    kept = {}
    if previous is not None and upgrade is not None:
        again = set(upgrade)
        kept = {
            module.name: parse_version(module.version)
            for module in previous.module
            if module.name not in again
        }
    resolution = resolve(roots_of(manifest), registries.catalog(), locked=kept)
    lock = lock_of(
        requirements_of(manifest), resolution, previous.composed if previous is not None else ()
    )
    return Locked(lock, resolution.warnings)


def shown(path: Path) -> str:
    """Return a path for people: relative to the working folder when it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
