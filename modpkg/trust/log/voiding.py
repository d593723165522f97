"""Saying in a log that releases count no more which never came into the index.

A release is logged before its index line is written. Whoever is killed between leaves an entry that
nothing can take back, and an audit names it. This adds another one, by which it is explained. What
is void is listed by each audit. Whoever was shown such a release finds it as a difference, by his
lock, and everybody does once the version is another release: it may only be published as it was.
"""

from __future__ import annotations

from collections.abc import Iterable

from modpkg.core.names import parse_version
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.place import Place, registry_at
from modpkg.registry.reader import Registry
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.log.difference import LogDifference
from modpkg.trust.log.entries import LogEntry, void_entry


def _is_in(registry: Registry, one: LogDifference) -> bool:
    version = parse_version(one.version)
    return any(parse_version(line.version) == version for line in registry.index(one.name))


def void_missing(
    place: Place, log: LogWriter, differences: Iterable[LogDifference]
) -> list[LogEntry]:
    """Say in a log that releases are void which an audit misses in the index; return the entries.

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
    log.append(entries)
    return entries
