"""Saying in a log that releases count no more which never came into the index.

A release is logged before its index line is written. Whoever is killed between leaves an entry that
nothing can take back, and an audit names it. This adds another one, by which it is explained. What
is void is listed by each audit. Whoever was shown such a release finds it as a difference, by his
lock, and everybody does once the version is another release: it may only be published as it was.
"""

from __future__ import annotations

from collections.abc import Collection

from modpkg.core.names import parse_version
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.place import Place, registry_at
from modpkg.registry.reader import Registry
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.log.difference import LogDifference
from modpkg.trust.log.entries import LogEntry, succeed_entry, void_entry
from modpkg.trust.log.logged_successions import read_successions


def _is_in(registry: Registry, one: LogDifference) -> bool:
    version = parse_version(one.version)
    return any(parse_version(line.version) == version for line in registry.index(one.name))


def void_missing(
    place: Place, log: LogWriter, differences: Collection[LogDifference]
) -> list[LogEntry]:
    """Say in a log that what an audit misses is void; return the entries.

    That are releases that the index lacks, and statements that the files of successors lack.

    Nobody may publish meanwhile.

    Raises:
        TrustError: The log has another key, or is damaged.
        OSError, PublishError, RegistryUnreachable: The place cannot be read or written.
    """
    registry, at = registry_at(place), moment_text()
    entries = [
        void_entry(one.name, one.version, one.release, at)
        for one in differences
        if one.kind == "missing" and not _is_in(registry, one)
    ]
    entries += [
        succeed_entry(one.name, one.statement, at, "void")
        for one in differences
        if one.kind == "successor"
        and one.entry is not None
        and one.statement not in read_successions(registry, [one.name])[one.name]
    ]
    log.append(entries)
    return entries
