"""Whether what a lock takes in is in the logs of its registries, of those that have one.

What stays was checked when it was locked, and the lock has how far the log had come. So a log is
asked again only for what was locked offline, or before the registry had one; and by a machine that
does not know yet that the log continues what the lock has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from modpkg.core.errors import NotFound, RegistryUnreachable, TrustError
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.names import ModuleName
from modpkg.core.records import IndexLine
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.mirrors import MirroredSource
from modpkg.registry.reader import Registry
from modpkg.resolve.admission import Admission
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.resolve.resolve import Resolution
from modpkg.trust.log.memory import LogMemory, LogState

if TYPE_CHECKING:
    from modpkg.trust.log.checking import Judge
    from modpkg.trust.log.entries import LogEntry
    from modpkg.trust.log.log_checkpoint import LogCheckpoint

LockedLog = Callable[[Registry], LogState | None]
"""Returns what a lock has seen of a registry's log."""


class CheckedLogs(Struct, frozen=True):
    """What was found out about the releases of a new lock."""

    states: Mapping[Registry, LogState]
    """How far the logs had come that were asked."""
    unlogged: Collection[str]
    """Modules for which a log could not be asked, since it is read offline."""

    def marked(self, lock: Lock) -> Lock:
        """Return the lock, with what a log has to be asked for yet."""
        return _marked(lock, self.unlogged)


def check_new_releases(
    lock: Lock,
    previous: Lock | None,
    resolution: Resolution,
    locked: LockedLog,
    admission: Admission,
) -> CheckedLogs:
    """Check that the releases which are new in a lock are in the logs of their registries.

    A candidate is no release yet, and of what is read offline nobody can tell.

    Args:
        lock: The new lock.
        previous: The one so far.
        resolution: What the new one is made of.
        locked: What ``previous`` has seen of logs.
        admission: What was admitted. Of what a log took in after a cut-off, its registry's word
            that it is older is not enough.

    Raises:
        TrustError: A release says that it is older than it is.
        What `modpkg.trust.log.checking.check_logged` raises.
    """
    asked: dict[Registry, list[IndexLine]] = {}
    unlogged: set[str] = set()
    for module in lock.module:
        if module.candidate:
            continue
        release = resolution.modules[ModuleName(module.name)].release
        registry = release.registry
        lines = asked.setdefault(registry, [])
        was = previous.find(module.name) if previous is not None else None
        is_kept = was is not None and was.release == module.release and not was.candidate
        if registry.offline:
            is_asked_for = was is not None and is_kept and not was.unlogged
            if not is_asked_for and (locked(registry) or registry.info.log) is not None:
                unlogged.add(module.name)
        elif not is_kept or (was is not None and was.unlogged) or _begins(registry, locked):
            lines.append(release.line)
    states: dict[Registry, LogState] = {}
    for registry, lines in asked.items():
        if registry.offline:
            continue
        judge = partial(_check_age, registry, resolution, admission)
        state = _checked(registry, lines, locked(registry), judge)
        if state is not None:
            states[registry] = state
    return CheckedLogs(states, unlogged)


def _check_age(
    registry: Registry,
    resolution: Resolution,
    admission: Admission,
    line: IndexLine,
    entry: LogEntry,
    checkpoint: LogCheckpoint,
) -> None:
    """Check that a release is not only by its registry's word older than a cut-off.

    The log is asked when it began only where it matters: what it began with may be older.

    Raises:
        TrustError: It is.
        RegistryUnreachable, RegistryError: The log cannot be read.
    """
    release = resolution.modules[ModuleName(line.name)].release
    excluded = admission.excluding(release, entry.at)
    if excluded is None:
        return
    from modpkg.trust.log.first_day import SOON, dated_back, log_began

    is_older = dated_back(line.published, entry.at, SOON)
    if is_older and dated_back(log_began(registry, checkpoint), entry.at):
        cutoff, why = excluded
        raise TrustError(
            "M474",
            name=line.name,
            version=line.version,
            published=line.published,
            at=entry.at,
            cutoff=moment_text(cutoff),
            why=why,
            registry=registry.url,
        )


def _checked(
    registry: Registry,
    lines: Sequence[IndexLine],
    locked: LogState | None,
    judge: Judge | None = None,
) -> LogState | None:
    """Return what `check_logged` does; most registries have no log, and had none."""
    memory, is_mirrored = (
        LogMemory(registry.source.url),
        isinstance(registry.source, MirroredSource),
    )
    if locked is None and registry.info.log is None and not is_mirrored and not memory.is_there:
        return None
    from modpkg.trust.log.checking import check_logged  # slow to import

    return check_logged(registry, lines, memory, locked, judge)


def _begins(registry: Registry, locked: LockedLog) -> bool:
    """Return whether a registry has a log of which the lock knows nothing."""
    return locked(registry) is None and registry.info.log is not None


def check_locked_releases(
    lock: Lock,
    by_name: Mapping[str, Registry],
    locked: LockedLog,
    *,
    is_new: bool,
    fetched: Collection[str],
    warn: Callable[[str], None],
) -> Lock:
    """Ask logs for what was locked offline, and whether they continue what the lock has of them.

    Args:
        lock: The lock.
        by_name: The registry of each of its modules.
        locked: What it has seen of logs.
        is_new: Whether it is not installed yet; else a registry is only asked for what was locked
            offline.
        fetched: Modules of which anything is fetched.
        warn: Is called if a registry cannot be reached of which nothing is fetched.

    Returns:
        The lock, without the marks of what is in a log.

    Raises:
        What `modpkg.trust.log.checking.check_logged` raises.
    """
    asked: dict[Registry, list[LockedModule]] = {}
    needed = {by_name[name] for name in fetched}
    unknown = cache(lambda registry: _is_unknown(registry, locked(registry)))
    for module in lock.module:
        registry = by_name[module.name]
        if not registry.offline and not module.listing:
            if is_new and (registry in needed or unknown(registry)):
                asked.setdefault(registry, [])
            if module.unlogged:
                asked.setdefault(registry, []).append(module)
    left = {module.name for module in lock.module if module.unlogged}
    for registry, modules in asked.items():
        lines = [locked_line(module) for module in modules]
        try:
            _checked(registry, lines, locked(registry))
        except (RegistryUnreachable, NotFound) as error:
            if registry in needed:
                raise
            what = "for what was locked offline" if lines else f"whether it continues {LOCK_NAME}"
            warn(f"the log was not asked {what}: {error}")
            continue
        left -= {module.name for module in modules}
    return _marked(lock, left)


def _is_unknown(registry: Registry, locked: LogState | None) -> bool:
    """Return whether a log has to be asked whether it continues what the lock has of it."""
    if locked is None:
        return False
    seen = LogMemory(registry.source.url).read()
    return seen is None or not seen.knows(locked)


def locked_line(module: LockedModule) -> IndexLine:
    """Return what a registry's index has to have of a module, by the lock."""
    return IndexLine(
        name=module.name, version=module.version, kind=module.kind, release=module.release
    )


def _marked(lock: Lock, unlogged: Collection[str]) -> Lock:
    if all(module.unlogged == (module.name in unlogged) for module in lock.module):
        return lock
    modules = [structs.replace(module, unlogged=module.name in unlogged) for module in lock.module]
    return structs.replace(lock, module=modules)
