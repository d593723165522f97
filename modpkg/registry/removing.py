"""Removing releases: for what must not be there, such as what was leaked or is against the law.

The index line stays: by it everybody knows that the version was removed, and nobody can publish
it again. It is written first, so that a release is refused from then on; then the blobs go that
nothing else names. Whoever goes on with a removal that was interrupted removes what is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from msgspec import UNSET, Struct
from msgspec.structs import replace

from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.elsewhere import elsewhere_path
from modpkg.core.errors import ModpkgError, RegistryError
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.registry.place import Place, registry_at
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.server_writer import ServerWriter
from modpkg.registry.standing import Standing
from modpkg.registry.unnamed import named_blobs, nobody_writes
from modpkg.registry.writer import RegistryWriter


class RemovedReleases(Struct, frozen=True):
    """What was removed of a registry."""

    lines: list[IndexLine]
    """Of the removed releases, as they stay in the index."""
    files: int
    """Blobs that are gone."""
    freed: int
    """Their bytes."""
    shared: int
    """Blobs of these releases that others name, and that stay for these."""


def remove_release(
    writer: RegistryWriter, name: str, version: str | None, reason: str, progress: Progress
) -> RemovedReleases:
    """Remove a release, or with ``version=None`` all that a module has, and thereby its name.

    Raises:
        NotFound: The registry does not have it.
        RegistryError: It is not known what the registry's other releases name; the releases are
            removed, and their blobs are still there.
        AccessRefused: The registry is served, and the user is no administrator of it.
    """

    if isinstance(writer, ServerWriter):
        done = writer.remove(name, version, reason)
        return RemovedReleases(done.lines, done.files, done.freed, done.shared)

    def edit(said: Standing) -> Standing:
        if said.removed is not UNSET:
            return said  # what was interrupted is gone on with
        return replace(said, yanked=reason if said.yanked is None else said.yanked, removed=reason)

    lines = writer.restate(name, version, edit)
    return _without_blobs(writer.place, lines, progress)


def follow_removals(
    writer: RegistryWriter, lines: Sequence[IndexLine], progress: Progress
) -> RemovedReleases:
    """Remove releases that another registry has removed, of which these are the lines.

    Raises:
        NotFound, RegistryError: As for `remove_release`.
    """
    done = [writer.follow(line) for line in lines]
    if isinstance(writer, ServerWriter):
        return RemovedReleases(done, 0, 0, 0)
    return _without_blobs(writer.place, done, progress)


def _without_blobs(place: Place, lines: Sequence[IndexLine], progress: Progress) -> RemovedReleases:
    """Remove the blobs of removed releases that nothing else names, the records last."""
    registry = registry_at(place)
    own: dict[Digest, None] = {}
    for line in lines:
        with contextlib.suppress(ModpkgError):  # an earlier removal has removed the record
            record = registry.release(line.release, f"the release record of {line.name}")
            own |= dict.fromkeys(digest for digest, _ in blobs_of(record))
    own |= {parse_digest(line.release): None for line in lines}
    files = freed = 0
    with nobody_writes(place):
        named = named_blobs(place, progress)
        doomed = [digest for digest in own if digest not in named]
        for digest in doomed:
            if (size := place.size(blob_path(digest))) is not None:
                place.remove(blob_path(digest))
                files, freed = files + 1, freed + size
            if place.size(elsewhere_path(digest)) is not None:
                place.remove(elsewhere_path(digest))
    shared = len(own) - len(doomed)
    if place.folder is None and doomed:  # nothing has kept publishers out
        _check_nobody_relies(place, {*doomed}, progress)
    return RemovedReleases([*lines], files, freed, shared)


def _check_nobody_relies(place: Place, gone: set[Digest], progress: Progress) -> None:
    """Check that no release was published meanwhile that names blobs that are gone.

    Raises:
        RegistryError: One was.
    """
    missing = sorted(gone & named_blobs(place, progress))
    if missing:
        raise RegistryError("M486", digest=missing[0], url=place.url)
