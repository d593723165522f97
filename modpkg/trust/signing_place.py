"""A place whose index is signed whenever something in it is replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from modpkg.core import bounds
from modpkg.core.digests import Digest
from modpkg.registry.place import Blob, Journal, Place, Progress, RegistryChange, StoredFile, T
from modpkg.registry.source import Source
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.signed_paths import is_signed_path


class SigningPlace:
    """The place of a registry, or of its private modules, that signs what changes in its index."""

    def __init__(self, inner: Place, writer: MetadataWriter, *, private: bool = False) -> None:
        self.inner = inner
        self._writer = writer
        self._private = private

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def journal(self) -> Journal | None:
        return self.inner.journal

    @property
    def source(self) -> Source:
        return self.inner.source

    @property
    def folder(self) -> Path | None:
        return self.inner.folder

    def prepare(self, name: str | None = None) -> None:
        self.inner.prepare(name)

    def change(self, edit: Callable[[RegistryChange], T]) -> T:
        def run(change: RegistryChange) -> T:
            signing = _SigningChange(change, self._writer, private=self._private)
            try:
                return edit(signing)
            finally:
                signing.settle()

        return self.inner.change(run)

    def size(self, path: str) -> int | None:
        return self.inner.size(path)

    def local(self, digest: Digest, what: str, spool: Path) -> Path:
        return self.inner.local(digest, what, spool)

    def stored(self, folder: str) -> Iterator[StoredFile]:
        return self.inner.stored(folder)

    def remove(self, path: str) -> None:
        self.inner.remove(path)


class _SigningChange:
    """A change that announces what it replaces before, and settles it after."""

    def __init__(self, inner: RegistryChange, writer: MetadataWriter, *, private: bool) -> None:
        self._inner = inner
        self._writer = writer
        self._private = private
        self._read: dict[str, bytes | None] = {}
        self._replaced: dict[str, tuple[bytes | None, bytes]] = {}

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes | None:
        data = self._inner.read(path, most)
        if is_signed_path(path):
            self._read[path] = data
        return data

    def add(self, blobs: Sequence[Blob], progress: Progress | None = None) -> int:
        return self._inner.add(blobs, progress)

    def replace(self, path: str, data: bytes) -> None:
        if not is_signed_path(path) or (self._private and not path.startswith("index/")):
            self._inner.replace(path, data)
            return
        before = self._read[path]
        if self._private:
            self._writer.announce_private(data)
        else:
            self._writer.announce(path, before, data)
        self._inner.replace(path, data)
        first = self._replaced[path][0] if path in self._replaced else before
        self._replaced[path], self._read[path] = (first, data), data

    def settle(self) -> None:
        if self._private:
            for before, data in self._replaced.values():
                self._writer.settle_private(before, data)
        elif self._replaced:
            self._writer.settle(self._replaced)
