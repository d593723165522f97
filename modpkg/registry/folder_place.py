"""A registry in a folder, for writing: locks keep others out, and files are linked or copied."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from modpkg.core import bounds, system
from modpkg.core.all_cores import on_all_cores
from modpkg.core.digests import Digest, blob_path
from modpkg.core.errors import PublishError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.files import make_folder, write_atomically
from modpkg.core.leftovers import remove_leftovers
from modpkg.core.ownership import check_links_of_owner
from modpkg.core.records import canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.names import check_name, new_info
from modpkg.registry.place import (
    INDEX,
    Blob,
    BuiltBlob,
    Journal,
    Progress,
    RegistryChange,
    StoredFile,
    T,
    journaled,
)
from modpkg.registry.source import FileMissing, FolderSource
from modpkg.registry.write_lock import folder_lock
from modpkg.release.build_stamps import stamp_of

PARTS = ("index", "blobs", "blobs/sha256", "locks", "lookup")
"""The folders of a registry."""


class FolderPlace:
    """A registry in a folder of this machine, or of a mounted file system.

    With ``within``, nothing below that folder is a link, as in a copy that modpkg makes.
    """

    def __init__(self, folder: Path, *, within: Path | None = None) -> None:
        self._folder = folder
        self.blobs = BlobTree(folder, within)
        self.within = within
        self.journal: Journal | None = None

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def url(self) -> str:
        return str(self.folder)

    @property
    def source(self) -> FolderSource:
        return FolderSource(self.folder.absolute())

    def prepare(self, name: str | None = None) -> None:
        """Make the folder a registry if it is not one yet.

        Raises:
            PublishError: The folder cannot be created or written to.
            InstallError: A part of it is a link of somebody else.
            UsageError: No registry can have the name.
        """
        check_links_of_owner(self.folder, PARTS)
        if name is not None:
            check_name(name)
        try:
            make_folder(self.folder / "index", within=self.within)
            make_folder(self.folder / "blobs" / "sha256", within=self.within)
            if not (self.folder / REGISTRY_INFO).exists():
                info = new_info(name, self.folder.resolve().name)
                data = canonical_json(info) + b"\n"
                write_atomically(self.folder / REGISTRY_INFO, data, within=self.within)
            if not os.access(self.folder / "index", os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise PublishError(
                "M309", url=self.folder, reason=error.strerror or str(error)
            ) from None

    def change(self, edit: Callable[[RegistryChange], T]) -> T:
        for folder in (self.folder, self.folder / "index"):
            remove_leftovers(folder)
        with self.writing(), contextlib.ExitStack() as held:
            return edit(journaled(_FolderChange(self, held), self.journal))

    def writing(self, *, exclusive: bool = False) -> contextlib.AbstractContextManager[None]:
        """Return the lock that all writers share, and that keeps all of them out if exclusive."""
        return folder_lock(self.folder, ".writing", exclusive=exclusive, within=self.within)

    def write(self, path: str, data: bytes) -> None:
        """Write a file that has the same bytes whoever writes it.

        Raises:
            OSError: It cannot be written.
        """
        write_atomically(self.folder / path, data, within=self.within)

    def size(self, path: str) -> int | None:
        try:
            return (self.folder / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def local(self, digest: Digest, what: str, spool: Path) -> Path:
        return self.blobs.path(digest)

    def stored(self, folder: str) -> Iterator[StoredFile]:
        for root, _, names in os.walk(self.folder / folder):
            for name in names:
                path = Path(root) / name
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    modified = datetime.datetime.fromtimestamp(
                        status.st_mtime, datetime.timezone.utc
                    )
                    relative = path.relative_to(self.folder).as_posix()
                    yield StoredFile(relative, status.st_size, modified)

    def remove(self, path: str) -> None:
        system.remove_file(self.folder / path)


class _FolderChange:
    """A change of a folder: who reads a file that is to be replaced holds its lock until the end.

    Index files come first and ``modules.jsonl`` last, so that nobody waits for who waits for him.
    """

    def __init__(self, place: FolderPlace, held: contextlib.ExitStack) -> None:
        self._place = place
        self._held = held
        self._locked: set[str] = set()

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes | None:
        if path not in self._locked:
            lock = folder_lock(self._place.folder, _lock_name(path), within=self._place.within)
            self._held.enter_context(lock)
            self._locked.add(path)
        try:
            return self._place.source.read(path, most)
        except FileMissing:
            return None

    def add(self, blobs: Sequence[Blob], progress: Progress | None = None) -> int:
        def add(blob: Blob) -> int:
            size = self._add(blob)
            if size and progress is not None:
                progress(size)
            return size

        built = [blob for blob in blobs if isinstance(blob, BuiltBlob)]
        copied = [blob for blob in blobs if not isinstance(blob, BuiltBlob)]
        return sum(map(add, copied)) + sum(on_all_cores(add, built, lambda b: b.size or 0))

    def _add(self, blob: Blob) -> int:
        """Add a blob, without a copy where possible, and return its bytes; 0 if it is here."""
        place = self._place
        held, size = place.size(blob_path(blob.digest)), blob.size
        if held is not None and (size is None or held == size):
            return 0
        if isinstance(blob, BuiltBlob):
            # Linking changes a time: whether it is the file that was hashed is seen before.
            is_hashed = blob.stamp is not None and stamp_of(blob.path) == blob.stamp
            place.blobs.add_shared(
                blob.tree, blob.digest, blob.what, lambda: is_hashed and blob.is_hashed()
            )
        else:
            place.blobs.add_stream(blob.chunks(), blob.digest, blob.what, blob.source)
        return place.blobs.path(blob.digest).stat().st_size

    def replace(self, path: str, data: bytes) -> None:
        write_atomically(self._place.folder / path, data, within=self._place.within)


def _lock_name(path: str) -> str:
    """Return the name of a file's lock: a module's own; others begin with a full stop.

    >>> _lock_name("index/words.jsonl"), _lock_name("modules.jsonl"), _lock_name("log/checkpoint")
    ('words', '.modules', '.log.checkpoint')
    """
    name = path.rpartition(".")[0] or path
    return name[len(INDEX) :] if name.startswith(INDEX) else "." + name.replace("/", ".")
