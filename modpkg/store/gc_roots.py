"""Garbage collection roots: what known projects need, and the store therefore keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from modpkg.core import system
from modpkg.core.errors import LockError
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.files import refusal_of
from modpkg.resolve.lock import Lock, read_lock
from modpkg.store.projects import CURRENT, KnownProject
from modpkg.store.store import Store


class GcRoots(Struct, frozen=True):
    """What is never garbage, whatever its age and the size of the store."""

    releases: frozenset[str]
    """Digests of releases."""
    composed: frozenset[str]
    """Digests of the inputs of composed results."""


def gc_roots(store: Store, warn: Callable[[str], None]) -> GcRoots:
    """Return what the locks of known projects, and of their installed environments, name.

    A lock that cannot be read is skipped with a warning; what that project has installed is kept.
    """
    releases: set[str] = set()
    composed: set[str] = set()
    for project in store.projects.known().values():
        for lock in _locks(project, warn):
            releases.update(module.release for module in lock.module)
            composed.update(result.inputs for result in lock.composed)
    return GcRoots(frozenset(releases), frozenset(composed))


def _locks(project: KnownProject, warn: Callable[[str], None]) -> list[Lock]:
    places = [Path(project.lock)]
    environment = Path(project.environment)
    if (installed := system.read_pointer(environment / CURRENT)) is not None:
        places.append(environment / installed / LOCK_NAME)
    locks = []
    for path in places:
        try:
            lock = read_lock(path)
        except (LockError, OSError) as error:
            reason = refusal_of(error) if isinstance(error, OSError) else error
            warn(f"{reason} Only what that project has installed is kept.")
            continue
        if lock is not None:
            locks.append(lock)
    return locks
