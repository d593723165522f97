"""The places of a registry's files, for those who may write there: one interface, several kinds.

Whoever writes runs one function, the edit, with `Place.change`. In it, files that many publishers
write (an index file, ``modules.jsonl``) are replaced only as they were read: a place either lets
nobody else write them meanwhile, as a folder does, or runs the edit again when somebody has, as an
object store does. So an edit does the same when it runs twice. Blobs are added before what names
them, each whole or not at all.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path, file_chunks, parse_digest
from modpkg.core.elsewhere import elsewhere_path
from modpkg.core.errors import IntegrityError
from modpkg.core.filenames import REGISTRY_INFO, SUCCESSIONS
from modpkg.core.records import ReleaseRecord
from modpkg.core.regular_file import check_regular
from modpkg.core.tree import BlobTree
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing, Source, too_large
from modpkg.release.build_stamps import FileStamp, stamp_of

T = TypeVar("T")


class StoredFile(Struct, frozen=True):
    """A file of a registry, as its place lists it."""

    path: str
    """Relative to the registry, with ``/``."""
    size: int
    modified: datetime.datetime


class BuiltBlob(Struct, frozen=True):
    """A blob to add from a tree that a build of this user wrote."""

    digest: Digest
    what: str
    """What it is, for errors."""
    tree: BlobTree
    stamp: FileStamp | None = None
    """The stamp of the file when it was hashed, if that is known."""

    @property
    def path(self) -> Path:
        return self.tree.path(self.digest)

    @property
    def size(self) -> int | None:
        """Its bytes; None if the tree does not have it."""
        return self.path.stat().st_size if self.tree.has(self.digest) else None

    @property
    def source(self) -> str:
        return str(self.tree.root)

    def is_hashed(self) -> bool:
        """Return whether the file is as it was when it was hashed, but for links to it."""
        return self.stamp is not None and self.stamp.same_but_for_links(stamp_of(self.path))

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of the file from ``offset`` on, which nobody has verified.

        Raises:
            IntegrityError: The tree does not have it.
        """
        try:
            check_regular(self.path)
            yield from file_chunks(self.path, offset)
        except FileNotFoundError:
            raise IntegrityError(
                "M306", what=self.what, digest=self.digest, source=self.source
            ) from None


class CopiedBlob(Struct, frozen=True):
    """A blob to add from another registry."""

    digest: Digest
    what: str
    registry: Registry
    size: int | None = None
    """Its bytes, where a record tells."""

    @property
    def source(self) -> str:
        return self.registry.url

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield its bytes from ``offset`` on, which nobody has verified.

        Raises:
            RegistryError: There are more of them than it has.
        """
        for chunk in bounded_stream(self.registry, self.digest, self.what, self.size):
            if offset < len(chunk):
                yield chunk[offset:]
            offset = max(offset - len(chunk), 0)


def bounded_stream(
    registry: Registry, digest: Digest, what: str, size: int | None
) -> Iterator[bytes]:
    """Yield the bytes of a blob, of which nobody has verified more than that they end in time.

    ``size`` is how many a record says that it has; None for a record or an interface.

    Raises:
        IntegrityError: The registry does not have the blob.
        RegistryUnreachable: It cannot be read.
        RegistryError: There are more.
    """
    most = bounds.RECORD_BYTES if size is None else size
    count = 0
    for chunk in registry.stream(digest, what):
        count += len(chunk)
        if count > most:
            raise too_large(registry.url, blob_path(digest), most)
        yield chunk


Blob = BuiltBlob | CopiedBlob
Progress = Callable[[int], None]
INDEX = "index/"
"""The folder of the index files."""
NOTED = (INDEX, SUCCESSIONS)
"""What a `Journal` notes."""


class RegistryChange(Protocol):
    """One change of a registry; see `Place.change`."""

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes | None:
        """Return a file that is to be replaced, as nobody has replaced it since; None if missing.

        Index files are read first, then lists of places, and ``modules.jsonl`` last.

        Raises:
            RegistryUnreachable: It cannot be read.
            RegistryError: It has more than ``most`` bytes.
        """
        ...

    def add(self, blobs: Sequence[Blob], progress: Progress | None = None) -> int:
        """Add the blobs that the place lacks, or has with another size; return their bytes.

        Those that an earlier run of the same edit has added are counted again.
        Each is hashed on the very bytes that are written. ``progress`` is called with the bytes
        that were written since, in any thread.

        Raises:
            IntegrityError: A blob has another digest, or is missing where it is taken from.
        """
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Replace a file that was read, in one step.

        Raises:
            OSError, PublishError: It cannot be written.
        """
        ...


class Journal(Protocol):
    """What notes each index file, and each file of successors, before it is replaced."""

    def note(self, path: str, before: bytes, after: bytes) -> None:
        """Note what a file says from now on.

        Raises:
            TrustError, PublishError: It cannot be noted, and the file stays as it is.
        """
        ...


class _JournaledChange:
    """A change of a registry that has a journal."""

    def __init__(self, change: RegistryChange, journal: Journal) -> None:
        self._change = change
        self._journal = journal
        self._before: dict[str, bytes] = {}
        self.add = change.add

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes | None:
        data = self._change.read(path, most)
        if path.startswith(NOTED):
            self._before[path] = data or b""
        return data

    def replace(self, path: str, data: bytes) -> None:
        if path.startswith(NOTED):
            self._journal.note(path, self._before[path], data)
            self._before[path] = data
        self._change.replace(path, data)


def journaled(change: RegistryChange, journal: Journal | None) -> RegistryChange:
    """Return a change that tells a journal of what it replaces, if there is one."""
    return change if journal is None else _JournaledChange(change, journal)


class Place(Protocol):
    """Where the files of one registry lie."""

    @property
    def journal(self) -> Journal | None:
        """What notes its index files; None where nobody keeps one."""
        ...

    @property
    def url(self) -> str:
        """The address as it is shown and recorded: without secrets."""
        ...

    @property
    def source(self) -> Source:
        """What reads the same files."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder that it is; None for one that is not on this machine."""
        ...

    def prepare(self, name: str | None = None) -> None:
        """Make it a registry if it is none yet; ``name`` is what it is called then.

        Raises:
            UsageError: No registry can have the name.
            PublishError: Nothing can be written there.
        """
        ...

    def change(self, edit: Callable[[RegistryChange], T]) -> T:
        """Return what ``edit`` returns, when none of what it replaced was replaced meanwhile.

        Raises:
            PublishError: Others write there all the time, or nothing can be written.
        """
        ...

    def size(self, path: str) -> int | None:
        """Return the bytes of a file; None if it is not there."""
        ...

    def local(self, digest: Digest, what: str, spool: Path) -> Path:
        """Return a file with a pack's bytes: the place's own, or a verified copy in ``spool``.

        There may be none at the path if the place lacks it.
        """
        ...

    def stored(self, folder: str) -> Iterator[StoredFile]:
        """Yield the files below a folder, in any order."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file that nothing names any more."""
        ...


def bare_place(place: Place) -> Place:
    """Return a place without what wraps it, to see which kind it is."""
    inner: Place = getattr(place, "inner", place)
    return inner


def is_registry(place: Place) -> bool:
    """Return whether there is a registry at a place.

    Raises:
        RegistryUnreachable: It cannot be read.
    """
    try:
        place.source.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
    except FileMissing:
        return False
    return True


def registry_at(place: Place, cache: BlobTree | None = None) -> Registry:
    """Return the registry at a place, of which nothing was read yet, for its records to be kept."""
    return Registry(place.source.url, source=place.source, cache=cache)


def bytes_elsewhere(
    place: Place,
    change: RegistryChange,
    record: ReleaseRecord,
    kept: Mapping[Digest, Sequence[str]],
) -> int:
    """Return the bytes of a release that a registry has elsewhere, and may not stay so."""
    sizes = record.packs | {entry.digest: entry.size for entry in record.files.values()}
    return sum(
        size
        for digest, size in ((parse_digest(text), size) for text, size in sizes.items())
        if digest not in kept
        if place.size(blob_path(digest)) is None
        if change.read(elsewhere_path(digest), bounds.BLOB_PLACES_BYTES) is not None
    )
