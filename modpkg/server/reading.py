"""The files of the registry's tree at the root of the server's address, as nginx would serve them.

Only paths of the tree's own form are files; anything else is a page or a part of the API. What is
asked for most, index files, is kept in memory for as long as ``stat`` finds the same file. Blobs
never change, and are answered by name: their ETag is their digest; nor do full tiles of a log. What
strangers published may look like a page with a script, so nothing here is ever shown by a browser
as one.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import CHUNK, digest_bytes
from modpkg.core.regular_file import open_descriptor, read_at_most
from modpkg.registry.place import Place
from modpkg.registry.source import FileMissing, Source
from modpkg.registry.validator import Validator
from modpkg.trust.log.tiles import LOG, TILE_PATHS, is_full_tile, is_tile_path

_HEX = r"([0-9a-f]{2})/\2[0-9a-f]{62}"
_NAME = r"[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?"
FILES = re.compile(
    rf"/(?:(blobs/sha256)/{_HEX}"
    rf"|index/{_NAME}\.jsonl|modules\.jsonl|registry\.json|advisories\.jsonl"
    rf"|candidates/{_NAME}(?:/[1-9][0-9]{{0,8}})?\.jsonl"
    r"|tuf/(?:timestamp|[1-9][0-9]{0,15}\.(?:root|snapshot|targets|index-[0-9a-f]{1,4}))\.json"
    r"|elsewhere/([0-9a-f]{2})/\3[0-9a-f]{62}\.json"
    rf"|signatures/([0-9a-f]{{2}})/\4[0-9a-f]{{62}}\.jsonl|successors/{_NAME}\.jsonl"
    rf"|{LOG}/checkpoint|{LOG}/successors\.jsonl"
    rf"|{LOG}/releases/([0-9a-f]{{2}})/\5[0-9a-f]{{62}}\.json|{TILE_PATHS})"
)
"""Paths of files; the first group is there in those of blobs."""
KEPT_FILE = 1 << 20
"""Bytes of the largest file that is kept in memory."""
KEPT_BYTES = 64 << 20
"""Bytes of all of them."""
_SAFE = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; sandbox"),
    ("accept-ranges", "bytes"),
]
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"
Headers = list[tuple[str, str]]
HeaderOf = Callable[[str], str | None]
"""Returns a header of the request, by its name in small letters."""


class FilePart(Struct, frozen=True):
    """Bytes of a file that are too many to hold in memory."""

    chunks: Callable[[int, int], Iterator[bytes]]
    """Returns the bytes from one position to before another."""
    start: int
    stop: int


class FileAnswer(Struct, frozen=True):
    """The answer to a request for a file."""

    status: int
    headers: Headers
    body: bytes | FilePart = b""
    head: bytes = b""
    """`head_of` it, of an answer that is kept."""


class StoredVersion(Struct, frozen=True):
    """A file as it is now."""

    etag: str
    size: int
    data: bytes | None
    """All of it, of a small one."""
    chunks: Callable[[int, int], Iterator[bytes]]
    answer: FileAnswer | None = None
    """That to who asks for all of it without a condition."""
    unchanged: FileAnswer | None = None
    """That to who has it."""


class FileFinder(Protocol):
    """Where the files are."""

    waits: bool
    """Whether asking for one takes so long that other requests are answered meanwhile."""

    def find(self, path: str, *, is_blob: bool) -> StoredVersion | None:
        """Return a file by its path in the registry; None if there is none."""
        ...


def files_of(place: Place) -> FileFinder:
    """Return the files of a place."""
    if place.folder is not None:
        return FolderFiles(place.folder)
    return RemoteFiles(place.source, place.size)


def answer_file(finder: FileFinder, path: str, method: str, header: HeaderOf) -> FileAnswer | None:
    """Return the answer to a request for a file; None if the path is not one of a file."""
    if (form := FILES.fullmatch(path)) is None:
        return None
    if method not in ("GET", "HEAD"):
        return FileAnswer(405, [*_SAFE, ("allow", "GET, HEAD"), ("content-length", "0")])
    is_blob = form[1] is not None
    found = finder.find(path[1:], is_blob=is_blob)
    if found is None:
        return FileAnswer(404, [*_SAFE, ("cache-control", _ASK_AGAIN), ("content-length", "0")])
    known, asked = header("if-none-match"), header("range")
    if asked is None and found.answer is not None:
        if known is None and method == "GET":
            return found.answer
        if known == found.etag and found.unchanged is not None:
            return found.unchanged
    return _answer(found, path, method, header, is_blob=is_blob)


def _answer(
    found: StoredVersion, path: str, method: str, header: HeaderOf, *, is_blob: bool
) -> FileAnswer:
    is_lasting = is_blob or is_full_tile(path.removeprefix("/"))
    caching = _FOR_EVER if is_lasting else _ASK_AGAIN
    headers = [*_SAFE, ("etag", found.etag), ("cache-control", caching)]
    if (known := header("if-none-match")) is not None and _matches(known, found.etag):
        return FileAnswer(304, headers)
    headers.append(("content-type", _type_of(path, is_blob=is_blob)))
    status, start, stop = 200, 0, found.size
    asked = header("range")
    if asked is not None and header("if-range") in (None, found.etag):
        part = parse_range(asked, found.size)
        if part == (0, 0):
            headers += [("content-range", f"bytes */{found.size}"), ("content-length", "0")]
            return FileAnswer(416, headers)
        if part is not None:
            status, (start, stop) = 206, part
            headers.append(("content-range", f"bytes {start}-{stop - 1}/{found.size}"))
    headers.append(("content-length", str(stop - start)))
    if method == "HEAD":
        return FileAnswer(status, headers)
    if found.data is not None:
        return FileAnswer(status, headers, found.data[start:stop] if status == 206 else found.data)
    return FileAnswer(status, headers, FilePart(found.chunks, start, stop))


def head_of(answer: FileAnswer) -> bytes:
    r"""Return the first lines of an answer as they are sent, without the empty line after them.

    >>> head_of(FileAnswer(404, [("content-length", "0")]))
    b'HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n'
    """
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in answer.headers]
    return "".join(lines).encode("latin-1")


def _kept(answer: FileAnswer) -> FileAnswer:
    return msgspec.structs.replace(answer, head=head_of(answer))


def _type_of(path: str, *, is_blob: bool) -> str:
    path = path.removeprefix("/")
    if is_blob or is_tile_path(path):
        return "application/octet-stream"
    if path == f"{LOG}/checkpoint":
        return "text/plain; charset=utf-8"
    return "application/json" if path.endswith(".json") else "application/x-ndjson"


def _matches(known: str, etag: str) -> bool:
    return known == etag or any(
        part.strip().removeprefix("W/") in (etag, "*") for part in known.split(",")
    )


_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def parse_range(asked: str, size: int) -> tuple[int, int] | None:
    """Return the first position and the end of a range; (0, 0) for none that is there.

    None for what is not one range of bytes, which is answered with the whole file.

    >>> parse_range("bytes=2-3", 10), parse_range("bytes=-3", 10), parse_range("bytes=4-", 10)
    ((2, 4), (7, 10), (4, 10))
    >>> parse_range("bytes=10-", 10), parse_range("bytes=0-1,3-4", 10)
    ((0, 0), None)
    """
    form = _RANGE.fullmatch(asked.replace(" ", ""))
    if form is None or form.group(1, 2) == ("", ""):
        return None
    first, last = form.group(1, 2)
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    return (start, stop) if start < stop else (0, 0)


class FolderFiles:
    """The files of a folder."""

    waits = False

    def __init__(self, root: Path) -> None:
        self._root = str(root.absolute())
        self._kept: OrderedDict[str, tuple[tuple[int, int, int], StoredVersion]] = OrderedDict()
        self._bytes = 0

    def find(self, path: str, *, is_blob: bool) -> StoredVersion | None:
        file = f"{self._root}/{path}"
        try:
            status = os.stat(file)
        except OSError:
            return None
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        kept = self._kept.get(path)
        if kept is not None:
            if kept[0] == stamp:
                return kept[1]
            self._forget(path)
        if is_blob and status.st_size > KEPT_FILE:
            return self._large_blob(file, path, status.st_size)
        return self._read(file, path, is_blob=is_blob)

    def _large_blob(self, file: str, path: str, size: int) -> StoredVersion | None:
        try:
            os.close(open_descriptor(file))
        except OSError:
            return None
        return StoredVersion(_etag_of(path), size, None, _chunks_of(file))

    def _read(self, file: str, path: str, *, is_blob: bool) -> StoredVersion | None:
        """Return a small file, which is kept; or a large one that may be replaced at any time."""
        try:
            descriptor = open_descriptor(file)
            try:
                status = os.fstat(descriptor)
                data = read_at_most(descriptor, bounds.INDEX_BYTES + 1)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        if not len(data) == status.st_size <= bounds.INDEX_BYTES:
            return None
        etag = _etag_of(path) if is_blob else f'"{digest_bytes(data)[7:39]}"'
        version = StoredVersion(etag, len(data), data, _chunks_of(file))
        if len(data) <= KEPT_FILE:
            whole = _answer(version, path, "GET", lambda _: None, is_blob=is_blob)
            known = {"if-none-match": etag}
            unchanged = _answer(version, path, "GET", known.get, is_blob=is_blob)
            version = msgspec.structs.replace(
                version, answer=_kept(whole), unchanged=_kept(unchanged)
            )
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            self._forget(path)
            self._kept[path] = stamp, version
            self._bytes += len(data)
            while self._bytes > KEPT_BYTES:
                self._forget(next(iter(self._kept)))
        return version

    def _forget(self, path: str) -> None:
        if (kept := self._kept.pop(path, None)) is not None:
            self._bytes -= kept[1].size


class RemoteFiles:
    """The files of an object store, which is asked each time whether a file is as it was."""

    waits = True

    def __init__(self, source: Source, size: Callable[[str], int | None]) -> None:
        self._source = source
        self._size = size
        self._kept: OrderedDict[str, tuple[Validator | None, StoredVersion]] = OrderedDict()

    def find(self, path: str, *, is_blob: bool) -> StoredVersion | None:
        if is_blob:
            size = self._size(path)

            def chunks(start: int, stop: int) -> Iterator[bytes]:
                return self._source.stream(path, start, stop)

            return None if size is None else StoredVersion(_etag_of(path), size, None, chunks)
        known = self._kept.get(path)
        try:
            validator = None if known is None else known[0]
            fetched = self._source.read_changed(path, validator, bounds.INDEX_BYTES)
        except FileMissing:
            return None
        if fetched is None:
            if known is None:
                raise AssertionError(f"{path} was asked for without a condition")
            return known[1]
        data = fetched.data
        version = StoredVersion(
            f'"{digest_bytes(data)[7:39]}"', len(data), data, lambda start, stop: iter(())
        )
        if len(data) <= KEPT_FILE:
            self._kept[path] = fetched.validator, version
            while len(self._kept) > KEPT_BYTES // KEPT_FILE:
                self._kept.popitem(last=False)
        return version


def _etag_of(path: str) -> str:
    """Return the ETag of a blob: its digest."""
    return f'"{path[-64:]}"'


def _chunks_of(file: str) -> Callable[[int, int], Iterator[bytes]]:
    def chunks(start: int, stop: int) -> Iterator[bytes]:
        descriptor = open_descriptor(file)
        try:
            os.lseek(descriptor, start, os.SEEK_SET)
            left = stop - start
            while left > 0 and (data := os.read(descriptor, min(left, CHUNK))):
                left -= len(data)
                yield data
        finally:
            os.close(descriptor)

    return chunks
