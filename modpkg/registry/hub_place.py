"""A registry in a repository of a hub, for writing: each change is one commit.

What a change adds and replaces is collected, and committed at its end on the very commit that it
has read (``parent_commit``). If others committed meanwhile, the hub refuses, and the change begins
again. Nobody ever sees a part of one.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path
from modpkg.core.errors import IntegrityError, ModpkgError, NotFound, PublishError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.hub_address import MAIN, HubAddress
from modpkg.core.records import canonical_json
from modpkg.core.regular_file import read_file
from modpkg.core.tree import BlobTree
from modpkg.registry.attempts import jittered
from modpkg.registry.hub_client import HubClient, open_hub, status_of
from modpkg.registry.hub_source import HubSource, names_in
from modpkg.registry.names import new_info
from modpkg.registry.place import Blob, Journal, Progress, RegistryChange, StoredFile, T
from modpkg.registry.requests import abandon, wait_for
from modpkg.registry.source import FileMissing, Source
from modpkg.registry.validator import FetchedFile, Validator

_IN_MEMORY = 1 << 20
"""Bytes up to which a blob is read before it is sent: it may be sent within the commit itself."""
_AT_ONCE = 4
_WHAT = "Publishing to a hub"


class _Conflict(Exception):
    """Somebody else has committed since the change began, or it is not known whether it was."""


class HubPlace:
    """A registry in a repository of a hub, at a branch."""

    def __init__(self, address: HubAddress) -> None:
        """Nothing is read yet.

        Raises:
            PublishError: The address names a commit, which never changes.
            RegistryError: ``HF_ENDPOINT`` is no address.
        """
        if address.pinned:
            reason = "a commit never changes"
            remedy = "leave it out for the branch 'main', or name a branch"
            raise PublishError("M867", address=address, reason=reason, remedy=remedy)
        self.address = address
        self._home = HubSource(address)
        self.journal: Journal | None = None
        self._changed: _HubChange | None = None
        self._sizes: tuple[str, dict[str, int]] = ("", {})
        self._modified = datetime.datetime.now(datetime.timezone.utc)
        self._sent: dict[str, Any] = {}
        """Large blobs that the hub has, and no commit names yet."""

    @property
    def url(self) -> str:
        return str(self.address)

    @property
    def source(self) -> Source:
        """What reads the registry; while it is changed, as it will be."""
        return self._home if self._changed is None else self._changed.source

    @property
    def folder(self) -> Path | None:
        return None

    def prepare(self, name: str | None = None) -> None:
        info = new_info(name, self.address.name)

        def edit(change: RegistryChange) -> None:
            if change.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES) is None:
                change.replace(REGISTRY_INFO, canonical_json(info) + b"\n")

        try:
            self._home.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
        except FileMissing:
            self.change(edit)

    def change(self, edit: Callable[[RegistryChange], T]) -> T:
        with open_hub(_WHAT) as client, tempfile.TemporaryDirectory(prefix="modpkg-hub-") as spool:
            for number in range(bounds.CHANGE_ATTEMPTS):
                with contextlib.suppress(_Conflict):
                    return self._attempt(client, Path(spool), edit)
                wait_for(partial(time.sleep, jittered(min(0.05 * 2**number, 5))))
        raise PublishError("M847", url=self.url, count=bounds.CHANGE_ATTEMPTS)

    def _attempt(self, client: HubClient, spool: Path, edit: Callable[[RegistryChange], T]) -> T:
        try:
            commit = client.head(self.address)
        except NotFound as error:
            raise self._without(client, error) from None
        self._changed = change = _HubChange(self, client, commit, spool)
        try:
            result = edit(change)
        finally:
            self._changed = None
        change.commit()
        return result

    def _without(self, client: HubClient, error: NotFound) -> PublishError:
        """Return the error for a repository, or only a branch of one, that is not there."""
        repository, branch = self.address.repository, self.address.revision
        remedy = f"make it with 'hf repos create {repository}'"
        if branch is not None:
            with contextlib.suppress(NotFound):
                client.head(self.address.at(None))
                remedy = f"make the branch with 'hf repos branch create {repository} {branch}'"
        remedy += ", or correct the name or the token (hf auth login)"
        reason = error.values["reason"]
        return PublishError("M867", address=self.address, reason=reason, remedy=remedy)

    def size(self, path: str) -> int | None:
        if self._changed is not None and (pending := self._changed.size(path)) is not None:
            return pending
        return self.listed().get(path)

    def listed(self) -> dict[str, int]:
        """Return the sizes of the files of the registry, listed once for each commit."""
        if (change := self._changed) is not None:
            if change.parent != self._sizes[0]:
                self._list(change.client, self.address.at(change.parent))
        else:
            with open_hub(_WHAT) as client:
                commit = client.head(self.address)
                if commit != self._sizes[0]:
                    self._list(client, self.address.at(commit))
        return self._sizes[1]

    def _list(self, client: HubClient, address: HubAddress) -> None:
        listing = client.listing(address)
        self._modified = listing.modified
        self._sizes = (address.revision or "", {file.path: file.size for file in listing.files})

    def local(self, digest: Digest, what: str, spool: Path) -> Path:
        tree = BlobTree(spool)
        if not tree.has(digest):
            with contextlib.suppress(FileMissing):
                tree.add_stream(self.source.stream(blob_path(digest)), digest, what, self.url)
        return tree.path(digest)

    def stored(self, folder: str) -> Iterator[StoredFile]:
        """Yield the files below a folder, each with the time of the newest commit."""
        for path, size in self.listed().items():
            if path.startswith(f"{folder}/"):
                yield StoredFile(path, size, self._modified)

    def remove(self, path: str) -> None:
        def edit(change: RegistryChange) -> None:
            assert isinstance(change, _HubChange)  # noqa: S101
            change.remove(path)

        if path in self.listed():
            self.change(edit)
            self._sizes = ("", {})

    # What a change does --------------------------------------------------------------------

    def send(self, client: HubClient, blob: Blob, spool: Path) -> Any:
        """Return the operation that adds a blob, whose bytes the hub has if it is a large one.

        Raises:
            IntegrityError: Its bytes are not those of its digest.
        """
        if (known := self._sent.get(blob.digest)) is not None:
            return known
        path = getattr(blob, "path", None)
        if not isinstance(path, Path) or (blob.size or 0) <= _IN_MEMORY:
            tree = BlobTree(spool)
            tree.add_stream(blob.chunks(), blob.digest, blob.what, blob.source)
            path = tree.path(blob.digest)
        size = path.stat().st_size
        content = read_file(path) if size <= _IN_MEMORY else str(path)
        add = client.hub.CommitOperationAdd(blob_path(blob.digest), content)
        if size > _IN_MEMORY:
            self._asked(client, lambda: self._upload(client, add))
            found = f"sha256:{add.upload_info.sha256.hex()}"
        else:
            found = f"sha256:{hashlib.sha256(content).hexdigest()}"  # type: ignore[arg-type]
        if found != blob.digest:
            raise IntegrityError(
                "M305", what=blob.what, expected=blob.digest, actual=found, source=blob.source
            )
        self._sent[blob.digest] = add
        return add

    def _upload(self, client: HubClient, add: Any) -> None:
        client.api.preupload_lfs_files(
            self.address.repository,
            additions=[add],
            revision=self.address.revision or MAIN,
            free_memory=False,
        )

    def commit(self, client: HubClient, parent: str, operations: list[Any]) -> None:
        """Commit on a parent.

        Raises:
            _Conflict: The branch is at another commit, or nobody knows whether this was done.
        """

        def commit() -> None:
            client.api.create_commit(
                self.address.repository,
                operations=operations,
                commit_message=f"modpkg: {_told(operations)}",
                revision=self.address.revision or MAIN,
                parent_commit=parent,
                num_threads=_AT_ONCE,
            )

        self._asked(client, commit)

    def _asked(self, client: HubClient, ask: Callable[[], None]) -> None:
        """Do a request that writes.

        Raises:
            _Conflict: It is to be done again, from the beginning.
            PublishError: The hub refuses it.
        """
        try:
            ask()
        except ModpkgError:
            raise
        except Exception as error:  # of two libraries, and wrapped in others by threads
            cause = client.cause_of(error)
            if isinstance(cause, ModpkgError) or not isinstance(cause, Exception):
                raise cause from None
            status = status_of(cause)
            if status in (409, 412):
                raise _Conflict from None
            if status in (401, 403):
                login = "run 'hf auth login' with a token that may write, or set HF_TOKEN to one"
                reason = "your token does not let you write there"
                if client.token is None:
                    reason = "no token was found"
                raise PublishError(
                    "M867", address=self.address, reason=reason, remedy=login
                ) from None
            if client.is_passing(cause):
                client.wait_after(cause, self.address)
                raise _Conflict from None
            if status is None:
                raise client.malformed(self.address, f"{type(cause).__name__}: {cause}") from None
            raise client.refusal(cause, self.address) from None


def _told(operations: Sequence[Any]) -> str:
    """Return what a commit does, for its title."""
    names = [
        operation.path_in_repo.removeprefix("index/").removesuffix(".jsonl")
        for operation in operations
        if operation.path_in_repo.startswith("index/")
    ]
    return ", ".join(sorted(names)[:5]) or "registry"


class _HubChange:
    """A change of a registry on a hub."""

    def __init__(self, place: HubPlace, client: HubClient, parent: str, spool: Path) -> None:
        self.client = client
        self.parent = parent
        """The commit that the registry is at."""
        self.replaced: dict[str, bytes] = {}
        self.added: dict[str, Blob] = {}
        self._place = place
        self._spool = spool
        self._removed: list[str] = []
        self.source = _ChangedSource(self, HubSource(place.address.at(parent)), place.url)

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes | None:
        try:
            return self.source.read(path, most)
        except FileMissing:
            return None

    def add(self, blobs: Sequence[Blob], progress: Progress | None = None) -> int:
        def missing(blob: Blob) -> bool:
            held = self._place.size(blob_path(blob.digest))
            return held is None or (blob.size is not None and held != blob.size)

        def send(blob: Blob) -> int:
            size = self._size(blob)
            if progress is not None:
                progress(size)
            return size

        wanted = {blob_path(blob.digest): blob for blob in blobs if missing(blob)}
        pool = ThreadPoolExecutor(_AT_ONCE, "modpkg-send")
        try:
            total = sum(pool.map(send, wanted.values()))
        except (KeyboardInterrupt, SystemExit):
            abandon()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        self.added |= wanted
        return total

    def replace(self, path: str, data: bytes) -> None:
        self.replaced[path] = data

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._removed.append(path)

    def listed(self) -> Collection[str]:
        """Return the paths of the files that are there."""
        return self._place.listed()

    def size(self, path: str) -> int | None:
        """Return the size of a file that is added or replaced; None for others."""
        if (data := self.replaced.get(path)) is not None:
            return len(data)
        return None if (blob := self.added.get(path)) is None else self._size(blob)

    def _size(self, blob: Blob) -> int:
        return int(self._place.send(self.client, blob, self._spool).upload_info.size)

    def commit(self) -> None:
        """Do it, as one commit."""
        hub = self.client.hub
        operations = [
            self._place.send(self.client, blob, self._spool) for blob in self.added.values()
        ]
        operations += [hub.CommitOperationAdd(path, data) for path, data in self.replaced.items()]
        operations += [hub.CommitOperationDelete(path) for path in self._removed]
        if operations:
            self._place.commit(self.client, self.parent, operations)


class _ChangedSource:
    """A registry on a hub as it will be after a change."""

    def __init__(self, change: _HubChange, before: HubSource, url: str) -> None:
        self.url = url
        self._change = change
        self._before = before

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        if (data := self._change.replaced.get(path)) is not None:
            return data
        if (blob := self._change.added.get(path)) is not None:
            return b"".join(blob.chunks())
        return self._before.read(path, most)

    def read_changed(self, path: str, known: Validator | None, most: int) -> FetchedFile | None:
        return FetchedFile(self.read(path, most))

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return self._before.stream(path, start, stop)

    def names(self, folder: str) -> list[str] | None:
        paths = {*self._change.listed(), *self._change.replaced, *self._change.added}
        return names_in(folder, paths)
