"""A registry in an object store, for writing: conditions of requests keep publishers apart.

Nobody holds a lock. A file that several write is replaced only if it still is what was read
(``If-Match``), or is not there (``If-None-Match``); who loses begins his edit again. A store that
ignores these conditions would lose releases, and is refused. Blobs appear whole: a small one by one
request, a large one by a multipart upload, which nobody sees before it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path
from modpkg.core.errors import IntegrityError, ModpkgError, PublishError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.records import canonical_json
from modpkg.core.redacted import redacted
from modpkg.core.tree import BlobTree
from modpkg.registry.attempts import Attempts, jittered
from modpkg.registry.http_errors import write_error
from modpkg.registry.names import new_info
from modpkg.registry.object_source import ObjectSource, version_in
from modpkg.registry.object_store import library
from modpkg.registry.place import (
    Blob,
    Journal,
    Progress,
    RegistryChange,
    StoredFile,
    T,
    journaled,
)
from modpkg.registry.refusals import refusal_of
from modpkg.registry.requests import Abandoned, TooLate, sum_at_once, wait_for
from modpkg.registry.source import FileMissing

R = TypeVar("R")
PART = 8 << 20
"""Bytes of a part of an upload, and of the largest blob that is sent by one request."""
PARTS_AT_ONCE = 4
"""Parts of one blob that are sent at the same time."""
BLOBS_AT_ONCE = 2
"""Large blobs that are sent at the same time."""
REQUESTS_AT_ONCE = 16
RETRIES = 8
"""How often a request is tried again: stores slow down those who write much."""
_NO_VERSION = {"e_tag": '"00000000000000000000000000000000"', "version": "1"}
"""A version that no file has."""


class ChangedMeanwhile(Exception):
    """Somebody else has replaced a file since it was read."""


class _Stopped(Exception):
    """An upload is given up, since another one failed."""


class BucketPlace:
    """A registry in an object store."""

    def __init__(self, source: ObjectSource) -> None:
        self._source = source
        self._conditions_hold = False
        self._present: dict[str, int] = {}
        self._kept = False
        """Whether blobs were sent."""
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
        info = new_info(name, self._source.url.rpartition("/")[2])
        try:
            self._check_conditions()
        except FileMissing:
            self._written(REGISTRY_INFO, canonical_json(info) + b"\n", "create")
            self._check_conditions()

    def _check_conditions(self) -> None:
        """Check that the store heeds conditions, by requests that are to be refused.

        What they would write is what is there.

        Raises:
            PublishError: It ignores one.
            FileMissing: There is no registry.
        """
        if self._conditions_hold:
            return
        data = self._source.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
        ignored = [
            header
            for header, mode in (("If-None-Match", "create"), ("If-Match", _NO_VERSION))
            if self._written(REGISTRY_INFO, data, mode) is not None
        ]
        if ignored:
            raise PublishError("M848", url=self.url, ignored=" and ".join(ignored))
        self._conditions_hold = True

    def change(self, edit: Callable[[RegistryChange], T]) -> T:
        with contextlib.suppress(FileMissing):  # there is no registry: the edit tells that
            self._check_conditions()
        sent: dict[Digest, int] = {}
        for number in range(bounds.CHANGE_ATTEMPTS):
            with contextlib.suppress(ChangedMeanwhile):
                return edit(journaled(_BucketChange(self, sent), self.journal))
            wait_for(partial(time.sleep, jittered(min(0.05 * 2**number, 2))))
        raise PublishError("M847", url=self.url, count=bounds.CHANGE_ATTEMPTS)

    def write(self, path: str, data: bytes) -> None:
        """Write a file that has the same bytes whoever writes it.

        Raises:
            PublishError: It cannot be written.
        """
        self._written(path, data, "overwrite")

    def size(self, path: str) -> int | None:
        try:
            meta = self._request(path, lambda: self._source.store.head(path))
        except FileNotFoundError:
            return None
        return int(meta["size"])

    def local(self, digest: Digest, what: str, spool: Path) -> Path:
        tree = BlobTree(spool)
        if not tree.has(digest):
            try:
                tree.add_stream(self._source.stream(blob_path(digest)), digest, what, self.url)
            except FileMissing:
                pass
        return tree.path(digest)

    def stored(self, folder: str) -> Iterator[StoredFile]:
        listing = iter(self._request(folder, lambda: self._source.store.list(folder)))
        while (some := self._request(folder, lambda: next(listing, None))) is not None:
            for meta in some:
                yield StoredFile(meta["path"], meta["size"], meta["last_modified"])

    def remove(self, path: str) -> None:
        try:
            self._request(path, lambda: self._source.store.delete(path))
        except FileNotFoundError:
            pass

    # Requests ------------------------------------------------------------------------------

    def read(self, path: str, most: int) -> tuple[bytes, dict[str, Any]] | None:
        """Return a file, and its version; None if it is not there."""
        try:
            return self._source.read_versioned(path, most)
        except FileMissing:
            return None

    def replace(self, path: str, data: bytes, version: dict[str, Any] | None) -> dict[str, Any]:
        """Replace a file of this version, or one that is not there, and return its version.

        Raises:
            ChangedMeanwhile: It has another one.
            PublishError: The store gives files no versions.
        """
        if version == {}:
            raise PublishError("M848", url=self.url, ignored="ETags")
        written = self._written(path, data, "create" if version is None else version)
        if written is None and (bare := self._without_quotes(path, version)) is not None:
            written = self._written(path, data, bare)
        if written is None:
            raise ChangedMeanwhile(path)
        return written

    def _without_quotes(self, path: str, version: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the version of a file that still has it, with the bare ETag; None of another one.

        Ceph 16 gives an ETag in quotes, as everybody does, and finds it only without them.
        """
        if version is None or not version.get("e_tag", "").startswith('"'):
            return None
        try:
            found = self._request(path, lambda: self._source.store.head(path))
        except FileNotFoundError:
            return None
        return (
            version | {"e_tag": version["e_tag"].strip('"')}
            if version_in(found) == version
            else None
        )

    def _written(self, path: str, data: bytes, mode: str | dict[str, Any]) -> dict[str, Any] | None:
        """Write a small file, and return its version; None if the condition does not hold."""
        errors = library().exceptions
        store = self._source.store if len(data) < PART // 16 else self._whole_store

        def put() -> Any:
            return store.put(path, data, mode=mode, use_multipart=False)

        try:
            done = self._request(path, put, writes=True)
        except (errors.AlreadyExistsError, errors.PreconditionError, errors.NotModifiedError):
            return None
        except FileNotFoundError as error:
            if mode == "create" or refusal_of(str(error), self.url):
                raise self._refused(error, path) from None
            return None  # it was removed since it was read
        return version_in(done)

    def add(self, blob: Blob, progress: Progress, stop: threading.Event) -> int:
        """Add a blob that is missing, or has another size, and return its bytes; else 0."""
        path = blob_path(blob.digest)
        held = self._present.get(path)
        held = self.size(path) if held is None else held
        if held is not None and (blob.size is None or held == blob.size):
            self._present[path] = held
            return 0
        if blob.size is None or blob.size <= PART:
            size = self._add_small(blob, path, held)
        else:
            size = self._add_large(blob, path, progress, stop)
        self._present[path] = size
        self._kept = True
        return size

    def _add_small(self, blob: Blob, path: str, held: int | None) -> int:
        data = bytearray()
        for chunk in blob.chunks():
            data += chunk
            if len(data) > bounds.SMALL_FILE_BYTES:
                break
        _check(blob, hashlib.sha256(data))
        mode = "create" if held is None else "overwrite"
        if self._written(path, bytes(data), mode) is None and self.size(path) != len(data):
            self._written(path, bytes(data), "overwrite")
        return len(data)

    def _add_large(self, blob: Blob, path: str, progress: Progress, stop: threading.Event) -> int:
        """Send a blob in parts, as a whole again if that fails, and return its bytes."""
        sent = _Sent(blob, progress, stop)

        def put() -> None:
            self._parts_store.put(
                path,
                sent.parts(),
                use_multipart=True,
                chunk_size=PART,
                max_concurrency=PARTS_AT_ONCE,
            )

        def done() -> bool:
            return self.size(path) == sent.size

        try:
            self._request(path, put, writes=True, seconds=None, done=done)
        except FileNotFoundError as error:  # of a bucket, or of an upload
            raise self._refused(error, path) from None
        return sent.size

    @cached_property
    def _whole_store(self) -> Any:
        """What sends a file of up to `PART` in one request, over a slow line too."""
        return self._source.opened(timedelta(seconds=bounds.UPLOAD_PART_SECONDS), 0)

    @cached_property
    def _parts_store(self) -> Any:
        """What sends a part again by itself."""
        silence = timedelta(seconds=bounds.UPLOAD_PART_SECONDS)
        return self._source.opened(silence, self._source.RETRIES)

    def _request(
        self,
        path: str,
        work: Callable[[], R],
        *,
        writes: bool = False,
        seconds: float | None = bounds.UPLOAD_PART_SECONDS,
        done: Callable[[], bool] = lambda: False,
    ) -> R | Any:
        """Return what a request returns, which is tried again where that may help.

        Args:
            path: The file that it is about.
            work: Does it.
            writes: Whether it writes.
            seconds: How long it may take; None if that is not known beforehand.
            done: Returns whether what failed was done nevertheless, when its answer was lost.

        Raises:
            FileNotFoundError: There is no such file, or no bucket.
            PublishError, RegistryUnreachable: It failed, for this user to read.
            obstore's: A condition did not hold.
        """
        errors = library().exceptions
        attempts = Attempts(RETRIES, bounds.SILENCE_SECONDS, self._source.asked_wait)
        if seconds is None:
            attempts = Attempts(3, bounds.UPLOAD_SECONDS, self._source.asked_wait)
        while True:
            try:
                return wait_for(work, seconds)
            except (errors.AlreadyExistsError, errors.PreconditionError, errors.NotModifiedError):
                raise
            except (ModpkgError, Abandoned, _Stopped):
                raise
            except TooLate:
                failure: Exception = TimeoutError("timed out")
            except FileNotFoundError as error:
                if done():
                    return None
                if "NoSuchUpload" not in str(error):
                    raise
                failure = error
            except Exception as error:  # obstore raises many kinds
                failure = error
            if done():
                return None
            if not attempts.again(str(failure)):
                raise self._refused(failure, path, attempts, writes=writes) from None

    def _refused(
        self,
        error: Exception,
        path: str,
        attempts: Attempts | None = None,
        *,
        writes: bool = True,
    ) -> ModpkgError:
        """Return the error to raise for what obstore raised."""
        known = self._source.request_error(error, path, attempts)
        if not writes or known.code == "M320":
            return known
        return write_error(error, self.url, known, kept=self._kept)


class _Sent:
    """The bytes of a blob while they are sent, hashed on the way."""

    def __init__(self, blob: Blob, progress: Progress, stop: threading.Event) -> None:
        self._blob = blob
        self._progress = progress
        self._stop = stop
        self._told = 0
        self.size = blob.size or 0

    def parts(self) -> Iterator[bytes]:
        """Yield them in parts. The last one is not given away unless all are what they should be.

        Raises:
            IntegrityError: They are not.
        """
        state, at, last = hashlib.sha256(), 0, b""
        for part in _in_parts(self._blob.chunks()):
            if self._stop.is_set():
                raise _Stopped
            state.update(part)
            if last:
                yield last
            at, last = at + len(part), part
            if at > self._told:
                self._progress(at - self._told)
                self._told = at
        _check(self._blob, state)
        yield last


def _in_parts(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of `PART`, but for the last one."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        while size >= PART:
            whole = held[0] if len(held) == 1 else b"".join(held)
            yield whole[:PART]
            held, size = [whole[PART:]], size - PART
    if size:
        yield b"".join(held)


def _check(blob: Blob, state: hashlib._Hash) -> None:
    if (actual := f"sha256:{state.hexdigest()}") != blob.digest:
        raise IntegrityError(
            "M305", what=blob.what, expected=blob.digest, actual=actual, source=blob.source
        )


class _BucketChange:
    """A change of a registry in an object store."""

    def __init__(self, place: BucketPlace, sent: dict[Digest, int]) -> None:
        """``sent`` has the bytes of blobs that earlier attempts at the same change have sent."""
        self._place = place
        self._sent = sent
        self._versions: dict[str, dict[str, Any] | None] = {}

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes | None:
        found = self._place.read(path, most)
        self._versions[path] = None if found is None else found[1]
        return None if found is None else found[0]

    def replace(self, path: str, data: bytes) -> None:
        self._versions[path] = self._place.replace(path, data, self._versions[path])

    def add(self, blobs: Sequence[Blob], progress: Progress | None = None) -> int:
        turn, stop = threading.Lock(), threading.Event()

        def tell(count: int) -> None:
            if progress is not None:
                with turn:
                    progress(count)

        def add(blob: Blob) -> int:
            size = self._place.add(blob, tell, stop)
            if size and (blob.size is None or blob.size <= PART):
                tell(size)
            if size:
                self._sent[blob.digest] = size
            return self._sent.get(blob.digest, 0)

        large = [blob for blob in blobs if (blob.size or 0) > PART]
        small = [blob for blob in blobs if (blob.size or 0) <= PART]
        return sum_at_once(add, large, BLOBS_AT_ONCE, stop) + sum_at_once(
            add, small, REQUESTS_AT_ONCE, stop
        )
