"""Copying releases from one registry to another: what is there already is not copied again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from modpkg.core.digests import parse_digest
from modpkg.core.errors import ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.names import parse_version
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.registry.place import is_registry, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.removing import follow_removals
from modpkg.registry.signature_files import signature_files, signatures_path
from modpkg.registry.standing import is_removed, standing_of, without_removed
from modpkg.registry.writer import RegistryWriter

NAMES_AT_ONCE = 4
"""Modules that are copied at the same time."""
RELEASES_AT_ONCE = 20
"""Releases of a module that are copied before its index names them."""


class Copied(Struct, frozen=True):
    """What was copied."""

    releases: int
    """How many are new."""
    yanks: int
    """Of how many releases the source now says something else: a yank, for one."""
    already: int
    """How many releases were there."""


class _Task(Struct):
    name: str
    new: list[IndexLine]
    changed: list[IndexLine]
    """Lines of releases that are there, of which the source now says something else."""


def copy_releases(
    source: Registry,
    writer: RegistryWriter,
    releases: Mapping[str, Sequence[IndexLine]],
    progress: Progress,
) -> Copied:
    """Copy releases, by name, with the lines that their registry has for them.

    A new registry gets the name of the source: it is a mirror of it. What was interrupted is gone
    on with. Where a version is another release, the other modules are copied all the same.

    Raises:
        RegistryError: Some could not be copied; the message tells which, and why.
        RegistryUnreachable, PublishError: Nothing can be read or written.
    """
    target = registry_at(writer.place) if is_registry(writer.place) else None
    tasks, already = [], 0
    for name, lines in releases.items():
        there = {} if target is None else {parse_version(x.version): x for x in target.index(name)}
        task = _Task(name, [], [])
        for line in lines:
            held = there.get(parse_version(line.version))
            if held is not None and is_removed(held) and held.release == line.release:
                already += 1  # whoever looks after the copy may remove more than the source
            elif held is None or held.release != line.release:
                task.new.append(line)
            elif standing_of(held) != standing_of(line):
                task.changed.append(line)
            else:
                already += 1
        if task.new or task.changed:
            tasks.append(task)
    writer.prepare()
    progress.stage("Copying")
    progress.total(sum(line.size for task in tasks for line in task.new))
    with ThreadPoolExecutor(NAMES_AT_ONCE) as pool:
        failures = list(pool.map(lambda t: _copy(t, source, writer, progress), tasks))
    removed = [line for task in tasks for line in task.changed if is_removed(line)]
    if removed:
        follow_removals(writer, removed, progress)
    refusals = [
        f"  {task.name}: {error}" for task, error in zip(tasks, failures, strict=True) if error
    ]
    if refusals:
        more = [f"  … and {len(refusals) - 10} more"] if len(refusals) > 10 else []
        raise RegistryError(
            "M872", count=len(refusals), source=source.url, facts="\n".join([*refusals[:10], *more])
        )
    new = sum(len(task.new) for task in tasks)
    changed = sum(len(task.changed) for task in tasks)
    return Copied(new, changed, already + changed)


def _copy(
    task: _Task, source: Registry, writer: RegistryWriter, progress: Progress
) -> ModpkgError | None:
    """Copy the releases of one module; return the error that stands in the way of one."""
    try:
        for start in range(0, len(task.new), RELEASES_AT_ONCE):
            part = task.new[start : start + RELEASES_AT_ONCE]
            writer.copy_releases(source, part, progress.advance)
        for line in without_removed(task.changed):
            of_it = signature_files(source, [line])  # a yank may be signed
            writer.follow(line, dict(of_it).get(signatures_path(parse_digest(line.release)), []))
    except RegistryUnreachable:
        raise
    except ModpkgError as error:
        return error
    return None
