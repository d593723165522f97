"""Unfinished packs: files of full length, with a journal of the spans that were written.

They are in the store's ``partial/``. After a kill or a lost connection, the next process resumes
from the journal. Nothing in them is used before it was hashed.

  <name>.pack      becomes a pack of the store
  <name>.spool     encoded tensors, and tensors that are only needed to decode others
  <name>.journal   24 bytes per write: number of the file, first byte, length
  <name>.lock      locked by the process that fetches
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from modpkg.core import system
from modpkg.core.digests import digest_file
from modpkg.core.file_lock import file_lock
from modpkg.core.files import disk_errors
from modpkg.core.hashed_copy import copy_hashed
from modpkg.core.ranges import Span, subtract
from modpkg.core.regular_file import open_file, read_file
from modpkg.store.packs import PackLayout
from modpkg.store.store import Store

PACK, SPOOL = 0, 1
"""Numbers of an unfinished pack's files."""
_SUFFIXES = (".pack", ".spool")
_ENTRY = struct.Struct("<QQQ")
_DISCARDED = 2
"""Added to a file's number in the journal: the bytes failed verification."""

WrittenSpans = tuple[list[Span], list[Span]]


class PackFetch(Struct, frozen=True, kw_only=True):
    """One pack of the store that is filled by fetching."""

    staging: str
    layout: PackLayout
    spool: int
    """Bytes of encoded tensors, and of tensors that are only needed to decode others."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the unfinished pack's files, by their number."""
        return self.layout.size, self.spool


def written_spans(folder: Path, name: str, sizes: Sequence[int]) -> WrittenSpans:
    """Return, by file, the spans of an unfinished pack that its journal records as written."""
    try:
        lengths = [(folder / f"{name}{suffix}").stat().st_size for suffix in _SUFFIXES]
        data = read_file(folder / f"{name}.journal")
    except FileNotFoundError:
        return [], []
    if lengths != list(sizes):
        return [], []
    spans: WrittenSpans = [], []
    fresh: WrittenSpans = [], []
    gone: WrittenSpans = [], []
    whole = len(data) - len(data) % _ENTRY.size  # the last entry may be incomplete after a kill
    for kind, start, length in _ENTRY.iter_unpack(data[:whole]):
        number = kind % _DISCARDED
        if kind >= 2 * _DISCARDED or start + length > sizes[number]:
            return [], []
        if kind < _DISCARDED:
            if gone[number]:  # in one go: a round discards all that failed, one after the other
                spans[number][:] = subtract([*spans[number], *fresh[number]], gone[number])
                fresh[number].clear()
                gone[number].clear()
            fresh[number].append((start, start + length))
        else:
            gone[number].append((start, start + length))
    first, second = (subtract([*spans[n], *fresh[n]], gone[n]) for n in (0, 1))
    return first, second


def disk_usage(folder: Path, name: str) -> int:
    """Return the bytes of disk space that an unfinished pack takes already."""
    taken = 0
    for suffix in _SUFFIXES:
        try:
            state = (folder / f"{name}{suffix}").stat()
        except FileNotFoundError:  # or another process has just finished the pack
            continue
        taken += min(state.st_size, getattr(state, "st_blocks", 0) * 512)
    return taken


class StagedPack:
    """One unfinished pack, locked by this process within a ``with`` block."""

    def __init__(self, store: Store, pack: PackFetch) -> None:
        self.pack = pack
        self.finished = False
        """Whether the pack is in the store, by this process or another."""
        self.done: WrittenSpans = ([], [])
        self._verified = False
        self._store = store
        self._folder = store.root / "partial"
        self._lock = file_lock(self._partial(".lock"), exclusive=True)
        self._files: list[int] = []
        self._journal = -1
        self._maps: dict[int, memoryview] = {}
        self._mapping = threading.Lock()

    def path(self, number: int) -> Path:
        """Return the path of a file of the pack, before or after it is finished."""
        if number == PACK and self.finished:
            return self._store.packs.path(self.pack.layout.name)
        return self._partial(_SUFFIXES[number])

    def _partial(self, suffix: str) -> Path:
        return self._folder / f"{self.pack.staging}{suffix}"

    def __enter__(self) -> StagedPack:
        self._lock.__enter__()
        self.finished = self._store.packs.has(self.pack.layout)
        return self

    def begin(self) -> None:
        """Reserve the disk space, and read what was written before.

        Raises:
            InstallError: There is not enough space; nothing is left behind.
        """
        self.done = written_spans(self._folder, self.pack.staging, self.pack.sizes)
        journal = self._partial(".journal")
        if self.done == ([], []):
            journal.unlink(missing_ok=True)
        with disk_errors(self._folder):
            try:
                for number, size in enumerate(self.pack.sizes):
                    path = self._partial(_SUFFIXES[number])
                    self._files.append(system.update_descriptor(path))
                    system.reserve(self._files[number], size)
            except OSError:
                if self.done == ([], []):
                    for suffix in _SUFFIXES:
                        self._partial(suffix).unlink(missing_ok=True)
                raise
            system.write_at(self._files[PACK], self.pack.layout.header, 0)
            self._journal = system.append_descriptor(journal)

    def write(self, number: int, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Write bytes at offsets of a file, then record it in the journal."""
        entries = []
        with disk_errors(self._folder):
            for position, data in parts:
                system.write_at(self._files[number], data, position)
                entries.append(_ENTRY.pack(number, position, len(data)))
            os.write(self._journal, b"".join(entries))

    def copy(
        self,
        number: int,
        position: int,
        source: int,
        offset: int,
        length: int,
        state: hashlib._Hash | None = None,
        beside: Executor | None = None,
    ) -> int:
        """Copy a range of another open file, and return the number of bytes.

        With a ``state``, it is updated with the bytes that are written (see
        `modpkg.core.hashed_copy.copy_hashed` for ``beside``); else the system copies, and shares
        blocks where it can.
        """
        file = self._files[number]
        with disk_errors(self._folder):
            if state is None:
                count = system.copy_range(source, offset, file, position, length)
            else:
                count = copy_hashed(source, offset, length, file, position, (state,), beside=beside)
            os.write(self._journal, _ENTRY.pack(number, position, count))
        return count

    def discard(self, number: int, span: Span) -> None:
        """Record in the journal that bytes failed verification."""
        if span[0] < span[1]:
            entry = _ENTRY.pack(number + _DISCARDED, span[0], span[1] - span[0])
            os.write(self._journal, entry)

    def refresh(self) -> None:
        """Read the journal again."""
        self.done = written_spans(self._folder, self.pack.staging, self.pack.sizes)

    def digest(self, number: int, span: Span) -> str:
        """Return the digest of a span of a file."""
        return digest_file(self.path(number), span[0], span[1] - span[0])

    def view(self, number: int, span: Span) -> memoryview:
        """Return a span of a file, mapped for reading and writing."""
        with self._mapping:
            if number not in self._maps and span[0] < span[1]:
                self._maps[number] = memoryview(mmap.mmap(self._files[number], 0))
        return self._maps.get(number, memoryview(bytearray()))[span[0] : span[1]]

    def flush(self) -> None:
        """Flush what was written to disk, so that less is left to flush at the end."""
        os.fsync(self._files[PACK])

    def finish(self) -> None:
        """Flush the pack, whose tensors were all verified; it is in the store after the block."""
        self.flush()
        self._verified = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # First: Windows renames and removes no file that is open.
            self._maps.clear()
            for descriptor in [*self._files, *([self._journal] if self._journal >= 0 else [])]:
                os.close(descriptor)
            if self._verified:
                self._store.add_pack(self._partial(_SUFFIXES[PACK]), self.pack.layout)
                self.finished = True
            if self.finished:
                for suffix in (".pack", ".spool", ".journal", ".lock"):
                    system.remove_file(self._partial(suffix))
        finally:
            self._lock.__exit__(kind, error, trace)


def map_part(path: Path, offset: int, length: int) -> memoryview:
    """Return a range of a file, mapped for reading."""
    if not length:
        return memoryview(b"")
    with open_file(path) as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return memoryview(mapping)[offset : offset + length]
