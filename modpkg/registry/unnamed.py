"""Blobs of a registry that nothing names: publishers that were killed have left them, or candidates
that became no release.

A publisher adds blobs before anything names them, and one that is there already is not added again.
So what it adds, or relies on, must not be removed under its hands: in a folder nobody writes while
this is at work, by a lock; elsewhere nothing is removed where somebody wrote within the last hour,
and nowhere what is younger than the grace time.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import parse_digest
from modpkg.core.errors import IntegrityError, ModpkgError, RecordError, RegistryError
from modpkg.core.leftovers import TEMPORARY
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.registry.candidates import (
    CANDIDATES,
    candidate_names,
    candidates_path,
    parse_candidates,
)
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.index import parse_index
from modpkg.registry.place import Place, StoredFile, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.standing import without_removed
from modpkg.registry.upkeep import all_names
from modpkg.registry.writer import blobs_of

QUIET = datetime.timedelta(hours=1)
"""For how long nobody must have written to a registry that has no locks."""


class Freed(Struct, frozen=True):
    """What was removed of a registry."""

    files: int
    freed: int
    """Bytes."""
    left: int
    """Files of blobs that stay."""


def remove_unnamed(
    place: Place,
    *,
    older_than: datetime.timedelta,
    now: datetime.datetime,
    progress: Progress,
    dry_run: bool = False,
) -> Freed:
    """Remove the blobs that neither releases nor open candidates name, older than the grace time.

    Raises:
        RegistryError: It is being written to, or it is not known what all of its releases name.
        NotFound: There is no registry.
    """
    _ = registry_at(place).info  # raises if this is not a registry
    with nobody_writes(place):
        progress.stage("Listing")
        stored = list(place.stored("blobs"))
        if place.folder is None and not dry_run:
            files = [*stored, *place.stored("index"), *place.stored(CANDIDATES)]
            newest = max((file.modified for file in files), default=now - QUIET)
            if now - newest < QUIET:
                minutes = max(int((now - newest).total_seconds() // 60), 0)
                raise RegistryError(
                    "M873",
                    url=place.url,
                    reason=f"somebody wrote to it {minutes} minutes ago, and may still do",
                    remedy="run it again when nobody has for an hour",
                )
        named = named_blobs(place, progress)
        garbage = [
            file
            for file in stored
            if not _is_named(file, named) and now - file.modified >= older_than
        ]
        if not dry_run:
            for file in garbage:
                with contextlib.suppress(FileNotFoundError):
                    place.remove(file.path)
    freed = sum(file.size for file in garbage)
    return Freed(len(garbage), freed, len(stored) - len(garbage))


@contextlib.contextmanager
def nobody_writes(place: Place) -> Iterator[None]:
    """Keep writers out, where there are locks."""
    with contextlib.ExitStack() as held:
        if isinstance(place, FolderPlace):
            held.enter_context(place.writing(exclusive=True))
        yield


def _is_named(file: StoredFile, named: set[str]) -> bool:
    """Return whether a file is a blob that a release names, or is no blob at all."""
    last = file.path.rpartition("/")[2]
    if last.startswith(TEMPORARY):
        return False
    try:
        return parse_digest(f"sha256:{last}") in named
    except ModpkgError:
        return True


def named_blobs(place: Place, progress: Progress) -> set[str]:
    """Return the digests of all blobs that releases and open candidates name.

    Raises:
        RegistryError: That is not known of one.
    """
    registry = registry_at(place)
    names, named = all_names(registry), set[str]()
    progress.stage("Reading")
    progress.total(len(names))
    for name in names:
        data = place.source.read(f"index/{name}.jsonl", bounds.INDEX_BYTES)
        try:
            lines = parse_index(data, name, registry.url)
            if len(lines) != sum(1 for raw in data.split(b"\n") if raw.strip()):
                raise _unknown(place, f"index/{name}.jsonl has lines that cannot be read")
            for line in without_removed(lines):
                named |= _named_by(registry, line)
        except (RecordError, IntegrityError) as error:
            raise _unknown(place, str(error)) from None
        progress.advance(1)
    for name in candidate_names(file.path for file in place.stored(CANDIDATES)):
        path = candidates_path(name)
        try:
            data = place.source.read(path, bounds.CANDIDATES_BYTES)
            found = parse_candidates(data, name, registry.url)
            if found.unreadable:
                raise _unknown(place, f"{path} has lines that cannot be read")
            for one in found.lines:
                if one.status == "open":
                    named |= _named_by(registry, one.line)
        except (RecordError, IntegrityError) as error:
            raise _unknown(place, str(error)) from None
    return named


def _named_by(registry: Registry, line: IndexLine) -> set[str]:
    record = registry.record(line)
    return {line.release, *(digest for digest, _ in blobs_of(record))}


def _unknown(place: Place, reason: str) -> RegistryError:
    return RegistryError(
        "M873",
        url=place.url,
        reason=f"it is not known what all of its releases name: {reason.rstrip('.')}",
        remedy=f"mend that first: 'modpkg registry verify {place.url}' tells more",
    )
