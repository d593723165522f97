"""Where the blobs of publishing sessions lie until they are committed.

They are in the storage, so that any of its servers can go on with what another has begun: of a
folder in ``.server/sessions/ID``, of an object store under the same path. Nothing there is part of
the registry: what is committed is hashed again, and added as a build's files are.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from modpkg.core import system
from modpkg.core.digests import Digest, digest_bytes, digest_file, digest_of
from modpkg.core.errors import IntegrityError, PublishError
from modpkg.core.file_lock import file_lock
from modpkg.core.files import make_folder, remove_tree, rename
from modpkg.core.tree import BlobTree
from modpkg.registry.bucket_place import BucketPlace
from modpkg.registry.object_store import library
from modpkg.registry.place import Place, bare_place
from modpkg.registry.source import FileMissing

FOLDER = ".server/sessions"
"""In the storage."""
DIRECT_BYTES = 5 << 30
"""The largest blob that is put straight into an object store: S3 takes no more by one request."""
DIRECT_SECONDS = 6 * 60 * 60
"""How long an address of an object store can be used."""


class BlobUpload(Protocol):
    """A blob while its bytes arrive."""

    offset: int

    def write(self, data: bytes) -> None:
        """Append bytes."""
        ...

    def close(self) -> None:
        """Keep what arrived.

        Raises:
            IntegrityError: All of it is there, and has another digest: it was thrown away.
        """
        ...


class Spool(Protocol):
    """The blobs of one session."""

    def size(self, digest: Digest) -> int:
        """Return how many bytes of a blob are there, from its first one on."""
        ...

    def has(self, digest: Digest, size: int) -> bool:
        """Return whether a blob is there, whole."""
        ...

    def add(self, data: bytes) -> None:
        """Add a small blob."""
        ...

    def upload(
        self, digest: Digest, size: int, offset: int
    ) -> contextlib.AbstractContextManager[BlobUpload]:
        """Return what takes the bytes of a blob from ``offset`` on.

        Raises:
            PublishError: Another offset is next, or somebody else is sending the same blob.
        """
        ...

    def address(self, digest: Digest) -> str | None:
        """Return an address at which the whole blob can be put without a token, if there is one."""
        ...

    def gathered(self, blobs: Iterable[tuple[Digest, int]]) -> Any:
        """Return a context manager that gives a tree with those of the blobs that are complete."""
        ...

    def remove(self) -> None:
        """Remove all of it."""
        ...


def spool_of(place: Place, session: str) -> Spool:
    """Return the blobs of a session."""
    if isinstance(bucket := bare_place(place), BucketPlace):
        return BucketSpool(bucket, session)
    return FolderSpool(place.folder or Path.cwd(), session)


def spooled_sessions(place: Place) -> dict[str, datetime.datetime]:
    """Return the sessions that have blobs, and when each was changed last."""
    found: dict[str, datetime.datetime] = {}
    for file in place.stored(FOLDER):
        session = file.path[len(FOLDER) + 1 :].partition("/")[0]
        found[session] = max(file.modified, found.get(session, file.modified))
    return found


def wrong_offset(digest: Digest, offset: int, found: int) -> PublishError:
    """Return the error for an upload that does not go on where the one before ended."""
    return PublishError("M454", digest=digest, offset=offset, found=found)


def busy(what: str) -> PublishError:
    """Return the error for what somebody else is at."""
    return PublishError("M455", what=what)


class FolderSpool:
    """The blobs of a session in a folder: on the file system of the registry, to be linked."""

    def __init__(self, root: Path, session: str) -> None:
        self._folder = root / FOLDER / session
        self._tree = BlobTree(self._folder)

    def _partial(self, digest: Digest) -> Path:
        return self._folder / "partial" / digest[7:]

    def size(self, digest: Digest) -> int:
        for path in (self._tree.path(digest), self._partial(digest)):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def has(self, digest: Digest, size: int) -> bool:
        return self._tree.has(digest)

    def add(self, data: bytes) -> None:
        self._tree.add(data)

    @contextlib.contextmanager
    def upload(self, digest: Digest, size: int, offset: int) -> Iterator[BlobUpload]:
        def refuse() -> None:
            raise busy(f"blob {digest}")

        lock = self._folder / "locks" / f"{digest[7:]}.lock"
        with file_lock(lock, exclusive=True, waiting=refuse):
            if (found := self.size(digest)) != offset:
                raise wrong_offset(digest, offset, found)
            if self._tree.has(digest):  # who sent it has gone before he was answered
                yield _WholeUpload(offset)
                return
            make_folder(self._partial(digest).parent)
            descriptor = system.update_descriptor(self._partial(digest))
            try:
                upload = _FileUpload(self, descriptor, digest, size, offset)
                yield upload
            finally:
                os.close(descriptor)

    def finish(self, digest: Digest, actual: Digest | None) -> None:
        """Make a partial blob a complete one; ``actual`` is its digest, if it is known."""
        partial, target = self._partial(digest), self._tree.path(digest)
        system.sync_file(partial)
        actual = digest_file(partial) if actual is None else actual
        if actual != digest:
            system.remove_file(partial)
            raise IntegrityError(
                "M305", what="the blob", expected=digest, actual=actual, source="what was sent"
            )
        make_folder(target.parent)
        system.set_mode(partial, 0o444)
        rename(partial, target)

    def address(self, digest: Digest) -> str | None:
        return None

    @contextlib.contextmanager
    def gathered(self, blobs: Iterable[tuple[Digest, int]]) -> Iterator[Path]:
        yield self._folder

    def remove(self) -> None:
        if self._folder.is_dir():
            remove_tree(self._folder)


class _WholeUpload:
    """A blob of which all bytes are there already."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def write(self, data: bytes) -> None:
        raise AssertionError("more than was declared is refused before")

    def close(self) -> None:
        pass


class _FileUpload:
    """A blob of a `FolderSpool` while its bytes arrive."""

    def __init__(
        self, spool: FolderSpool, descriptor: int, digest: Digest, size: int, offset: int
    ) -> None:
        self._spool = spool
        self._descriptor = descriptor
        self._digest = digest
        self._size = size
        self.offset = offset
        self._state = None if offset else hashlib.sha256()

    def write(self, data: bytes) -> None:
        system.write_at(self._descriptor, data, self.offset)
        self.offset += len(data)
        if self._state is not None:
            self._state.update(data)

    def close(self) -> None:
        if self.offset == self._size:
            known = None if self._state is None else digest_of(self._state)
            self._spool.finish(self._digest, known)


class BucketSpool:
    """The blobs of a session in an object store, each in pieces that are named by their offset.

    Whoever has a signed address may put other bytes there at any moment before it expires. So what
    is committed is fetched, hashed, and sent as what was hashed; it is not copied in the store.
    """

    def __init__(self, place: BucketPlace, session: str) -> None:
        self._place = place
        self._store = place.source.store
        self._folder = f"{FOLDER}/{session}"

    def _piece(self, digest: Digest, offset: int) -> str:
        return f"{self._folder}/{digest[7:]}/{offset:020}"

    def _pieces(self, digest: Digest) -> list[tuple[str, int]]:
        """Return the pieces that follow each other, and how many bytes each has."""
        stored = self._place.stored(f"{self._folder}/{digest[7:]}")
        found = {file.path.rpartition("/")[2]: file for file in stored}
        pieces: list[tuple[str, int]] = []
        at = 0
        while (file := found.get(f"{at:020}")) is not None and file.size:
            pieces.append((file.path, file.size))
            at += file.size
        return pieces

    def size(self, digest: Digest) -> int:
        return sum(size for _, size in self._pieces(digest))

    def has(self, digest: Digest, size: int) -> bool:
        return self.size(digest) == size

    def add(self, data: bytes) -> None:
        self._store.put(self._piece(digest_bytes(data), 0), data)

    @contextlib.contextmanager
    def upload(self, digest: Digest, size: int, offset: int) -> Iterator[BlobUpload]:
        if (found := self.size(digest)) != offset:
            raise wrong_offset(digest, offset, found)
        with tempfile.TemporaryFile(prefix="modpkg-upload-") as file:
            yield _PieceUpload(self, file, digest, size, offset)

    def put(self, digest: Digest, offset: int, file: Any) -> None:
        """Add a piece."""
        self._store.put(self._piece(digest, offset), file)

    def discard(self, digest: Digest) -> None:
        """Remove what is there of a blob."""
        for path, _ in self._pieces(digest):
            self._place.remove(path)

    def address(self, digest: Digest) -> str | None:
        expires = datetime.timedelta(seconds=DIRECT_SECONDS)
        try:
            signed: str = library().sign(self._store, "PUT", self._piece(digest, 0), expires)
        except Exception:  # a store that cannot sign: through the server
            return None
        return signed

    @contextlib.contextmanager
    def gathered(self, blobs: Iterable[tuple[Digest, int]]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="modpkg-commit-") as folder:
            tree = BlobTree(Path(folder))
            for digest, size in blobs:
                if self.size(digest) == size:
                    try:
                        tree.add_stream(self._chunks(digest), digest, "the blob", "what was sent")
                    except IntegrityError:
                        self.discard(digest)
                        raise
            yield Path(folder)

    def _chunks(self, digest: Digest) -> Iterator[bytes]:
        for path, _ in self._pieces(digest):
            with contextlib.suppress(FileMissing):  # of which the digest tells
                yield from self._place.source.stream(path)

    def remove(self) -> None:
        for file in [*self._place.stored(self._folder)]:
            self._place.remove(file.path)


class _PieceUpload:
    """A piece of a blob of a `BucketSpool` while its bytes arrive."""

    def __init__(
        self, spool: BucketSpool, file: Any, digest: Digest, size: int, offset: int
    ) -> None:
        self._spool = spool
        self._file = file
        self._digest = digest
        self._size = size
        self._start = self.offset = offset
        self._state = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._state.update(data)
        self.offset += len(data)

    def close(self) -> None:
        if self.offset == self._start:
            return
        if not self._start and self.offset == self._size:
            actual = digest_of(self._state)
            if actual != self._digest:
                raise IntegrityError(
                    "M305",
                    what="the blob",
                    expected=self._digest,
                    actual=actual,
                    source="what was sent",
                )
        self._file.seek(0)
        self._spool.put(self._digest, self._start, self._file)
