"""What known projects need: the store keeps it, whatever its age and the store's size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from modpkg.core.errors import LockError
from modpkg.core.filenames import LOCK_NAME
from modpkg.resolve.lock import Lock, read_lock
from modpkg.store.projects import KnownProject
from modpkg.store.store import Store


class Needs(Struct, frozen=True):
    """Digests of releases, and of what went into composed results."""

    releases: frozenset[str]
    composed: frozenset[str]


def needs_of(store: Store, warn: Callable[[str], None]) -> Needs:
    """Return what the locks of known projects need, and those of their installed environments.

    A project whose lock and environment are both gone needs nothing. ``warn`` is told of a lock
    that cannot be read; what that project has installed is kept nevertheless.
    """
    releases: set[str] = set()
    composed: set[str] = set()
    for project in store.projects.known().values():
        for lock in _locks(project, warn):
            releases.update(module.release for module in lock.module)
            composed.update(result.inputs for result in lock.composed)
    return Needs(frozenset(releases), frozenset(composed))


def _locks(project: KnownProject, warn: Callable[[str], None]) -> list[Lock]:
    installed = Path(project.environment) / "current" / LOCK_NAME
    found = []
    for path in (Path(project.lock), installed):
        try:
            lock = read_lock(path)
        except (LockError, OSError) as error:
            warn(f"{str(error).rstrip('.')}; what that project has installed is kept.")
            continue
        if lock is not None:
            found.append(lock)
    return found
