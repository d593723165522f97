"""Whether what a lock takes in is in the logs of its registries, of those that have one."""

from __future__ import annotations

from modpkg.core.names import module_name
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock
from modpkg.resolve.resolve import Resolution
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.memory import LogMemory


def check_new_releases(lock: Lock, previous: Lock | None, resolution: Resolution) -> None:
    """Check that the releases which are new in a lock are in the logs of their registries.

    What stays was checked when it was locked. A candidate is no release yet, and of what is read
    offline nobody can tell.

    Args:
        lock: The new lock.
        previous: The one so far.
        resolution: What the new one is made of.

    Raises:
        What `modpkg.trust.log.checking.check_logged` raises.
    """
    new: dict[Registry, list[IndexLine]] = {}
    for module in lock.module:
        was = previous.find(module.name) if previous is not None else None
        is_kept = was is not None and was.release == module.release and not was.candidate
        if is_kept or module.candidate:
            continue
        release = resolution.modules[module_name(module.name)].release
        if not release.registry.offline:
            new.setdefault(release.registry, []).append(release.line)
    for registry, lines in new.items():
        check_logged(registry, lines, LogMemory(registry.url))
