"""What a lock records of registries whose index is signed: how far each had come.

By it, another machine sees whether a registry goes back behind what this one has seen, and whether
one that was signed is not any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import structs

from modpkg.registry.mutable_files import MutableFiles
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedRegistry
from modpkg.trust.signed_index import SeenRegistry, SignedIndex


def verify_index(files: MutableFiles) -> SignedIndex:
    """Let files of a registry be verified by its signed metadata, if it has any; return that."""
    signed = SignedIndex(files.source, files.home, files.info)
    files.checks = signed
    return signed


def expect_seen(registry: Registry, locked: LockedRegistry) -> None:
    """Hold a registry to what a lock has seen of it, before it is read."""
    checks = registry.files.checks
    if isinstance(checks, SignedIndex):
        checks.locked = SeenRegistry(locked.root, locked.root_version, locked.snapshot)


def with_seen(
    lock: Lock,
    previous: Lock | None,
    registries: Iterable[Registry],
    address: Callable[[Registry], str],
) -> Lock:
    """Return a lock with how far its registries have come.

    Args:
        lock: The new lock.
        previous: The one so far: of a registry that was not read now, what it says stays.
        registries: Those of the lock's modules.
        address: Returns what a lock records of where one is.
    """
    found: dict[str, LockedRegistry] = {}
    before = {one.address: one for one in (previous.registry if previous is not None else ())}
    for registry in registries:
        where = address(registry)
        checks = registry.files.checks
        seen = checks.seen() if isinstance(checks, SignedIndex) else None
        if seen is not None:
            found[where] = LockedRegistry(
                address=where,
                root=seen.root,
                root_version=seen.root_version,
                snapshot=seen.snapshot,
            )
        elif where in before:
            found[where] = before[where]
    return structs.replace(lock, registry=[found[where] for where in sorted(found)])


def without_progress(lock: Lock) -> Lock:
    """Return a lock without how far its registries have come, to compare it with another."""
    registries = [structs.replace(one, root_version=1, snapshot=1) for one in lock.registry]
    return structs.replace(lock, registry=registries)
