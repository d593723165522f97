"""The registry behind a server: its files are read as any others, and written by its API alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from modpkg.core.digests import Digest, blob_path
from modpkg.core.errors import PublishError
from modpkg.core.redacted import redacted
from modpkg.core.tree import BlobTree
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.place import Journal, RegistryChange, StoredFile, T
from modpkg.registry.server_api import ServerApi
from modpkg.registry.source import FileMissing


class ServerPlace:
    """A registry that is served; `modpkg.registry.server_writer` publishes to it."""

    def __init__(self, source: ObjectSource, api: ServerApi) -> None:
        self._source = source
        self.api = api
        self.journal: Journal | None = None

    @property
    def url(self) -> str:
        return redacted(self._source.url)

    @property
    def source(self) -> ObjectSource:
        return self._source

    @property
    def folder(self) -> Path | None:
        return None

    def prepare(self, name: str | None = None) -> None:
        pass  # the server made it

    def change(self, edit: Callable[[RegistryChange], T]) -> T:
        raise self._refusal()

    def size(self, path: str) -> int | None:
        return self._source.size(path)

    def local(self, digest: Digest, what: str, spool: Path) -> Path:
        tree = BlobTree(spool)
        if not tree.has(digest):
            try:
                tree.add_stream(self._source.stream(blob_path(digest)), digest, what, self.url)
            except FileMissing:
                pass
        return tree.path(digest)

    def stored(self, folder: str) -> Iterator[StoredFile]:
        raise self._refusal()

    def remove(self, path: str) -> None:
        raise self._refusal()

    def _refusal(self) -> PublishError:
        reason = "its files are its server's, whose operator looks after them where they lie"
        return PublishError("M309", url=self.url, reason=reason)
