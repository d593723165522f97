"""What a build hashed, by size, times and inode, so that unchanged files are not hashed again.

A build writes ``.stamps.json`` into its tree. A file with the stamp that it had then has the
bytes that it had then, as in git's index. Any doubt (no stamps, another release, a file that was
changed shortly before the build) means that it is hashed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.digests import parse_digest
from modpkg.core.errors import ReleaseError
from modpkg.core.files import write_atomically
from modpkg.core.records import ReleaseRecord
from modpkg.core.regular_file import read_file
from modpkg.core.tree import BlobTree

STAMPS = ".stamps.json"
"""Name of the file in a built tree."""
_RACY = 50_000_000
"""Nanoseconds within which two changes of a file can have the same time."""


class FileStamp(Struct, frozen=True, array_like=True):
    """What changes when a file does."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int
    """Nobody can set it, as `touch` sets the time of change; a new hard link changes it too."""
    device: int

    def same_but_for_links(self, other: FileStamp) -> bool:
        """Return whether nothing changed between two stamps, if the file got a hard link."""
        return msgspec.structs.replace(other, ctime_ns=self.ctime_ns) == self


class BuildStamps(Struct, frozen=True):
    """The stamps of one build."""

    release: str
    """Digest of the release."""
    sources: dict[str, FileStamp]
    """The project's files of weights, by path, before they were read."""
    packs: dict[str, FileStamp]
    """The packs in the built tree, by digest."""


def stamp_of(path: Path) -> FileStamp:
    """Return the stamp of a file as it is now."""
    status = os.stat(path)
    return FileStamp(
        status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns, status.st_dev
    )


def stamps_of(files: Mapping[str, Path]) -> dict[str, FileStamp]:
    """Return the stamps of files that are about to be read."""
    return {path: stamp_of(file) for path, file in files.items()}


def check_unchanged(stamps: Mapping[str, FileStamp], files: Mapping[str, Path]) -> None:
    """Check that no file changed since its stamp was taken.

    What was read from a changed one can be of two versions, which no digest tells.

    Raises:
        ReleaseError: One did, or is not there any more.
    """
    for path in sorted(stamps.keys() - unchanged(stamps, files)):
        raise ReleaseError("M859", path=files[path], what="it")


def without_new(stamps: Mapping[str, FileStamp]) -> dict[str, FileStamp]:
    """Return the stamps but for those of files that were changed a moment ago."""
    latest = time.time_ns() - _RACY
    return {path: stamp for path, stamp in stamps.items() if stamp.mtime_ns < latest}


def write_stamps(
    tree: Path, release: str, record: ReleaseRecord, sources: dict[str, FileStamp]
) -> None:
    """Write the stamps of a build into its tree."""
    blobs = BlobTree(tree)
    paths = {pack: blobs.path(parse_digest(pack)) for pack in record.packs}
    packs = {pack: stamp_of(path) for pack, path in paths.items() if path.is_file()}
    stamps = BuildStamps(release, sources, packs)
    write_atomically(tree / STAMPS, msgspec.json.encode(stamps) + b"\n")


def rename_release(tree: Path, before: str, after: str) -> None:
    """Note that a built release has another digest, with the same packs."""
    stamps = read_stamps(tree, before)
    if stamps is not None:
        changed = msgspec.structs.replace(stamps, release=after)
        data = msgspec.json.encode(changed) + b"\n"
        write_atomically(tree / STAMPS, data, within=tree.parent)


def read_stamps(tree: Path, release: str) -> BuildStamps | None:
    """Return the stamps of a release in a built tree; None if there are none of it."""
    try:
        stamps = msgspec.json.decode(read_file(tree / STAMPS), type=BuildStamps)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return stamps if stamps.release == release else None


def unchanged(stamps: Mapping[str, FileStamp], paths: Mapping[str, Path]) -> set[str]:
    """Return the keys of files that have the stamp that they had when they were hashed."""
    return {key for key, stamp in stamps.items() if key in paths and _has(paths[key], stamp)}


def _has(path: Path, stamp: FileStamp) -> bool:
    try:
        return stamp_of(path) == stamp
    except OSError:
        return False  # reported where the file is needed


def hashed_packs(record: ReleaseRecord, release: str, built: BlobTree) -> dict[str, FileStamp]:
    """Return the stamps of the packs in a built tree that are unchanged since they were hashed."""
    stamps = read_stamps(built.root, release)
    if stamps is None:
        return {}
    carried = {pack: built.path(parse_digest(pack)) for pack in record.packs}
    return {pack: stamps.packs[pack] for pack in unchanged(stamps.packs, carried)}
