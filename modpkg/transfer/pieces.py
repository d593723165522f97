"""Pieces: ranges of a registry's packs, fetched and written to unfinished packs."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from io import FileIO
from pathlib import Path

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path, digest_of, parse_digest
from modpkg.core.errors import IntegrityError, PackError, RegistryUnreachable
from modpkg.core.ranges import Segment, Span
from modpkg.core.regular_file import IrregularFile, open_unbuffered
from modpkg.registry.reader import Registry
from modpkg.registry.source import RangesUnsupported
from modpkg.transfer.plan import TensorFetch
from modpkg.transfer.staging import StagedPack

Progress = Callable[[str, int], None]
"""Called, in any thread, with a module's name and a number of bytes fetched for it."""

TRIES = 4
"""Attempts without progress after which a pack counts as truncated."""
_STEP = 16 << 20
"""Bytes that are copied from a folder between two entries of the journal."""
_LARGE = 64 << 20
"""Bytes of a tensor that others may have to wait for: one core hashes it from end to end."""
PAUSE = 0.2
"""Seconds before the first retry; each further pause is twice as long."""


class Cancelled(Exception):
    """Another piece failed; what was fetched of this one is kept for the next attempt."""


class Sink:
    """Writes fetched bytes, for all pieces of one transfer."""

    def __init__(
        self,
        tensors: Sequence[TensorFetch],
        staged: dict[str, StagedPack],
        progress: Progress | None,
        cancelled: threading.Event,
        beside: Executor,
    ) -> None:
        """``Segment.target`` is the number of a tensor in ``tensors``.

        What is copied of a large tensor is read and written ``beside`` the thread that hashes it.
        """
        self._tensors = tensors
        self._staged = staged
        self._progress = progress
        self._cancelled = cancelled
        self._beside = beside

    def write(self, at: int, data: memoryview, segments: list[Segment]) -> None:
        """Write data at an offset of a pack to its segments, and drop complete segments."""
        self.check()
        end = at + len(data)
        parts: dict[tuple[str, int], list[tuple[int, memoryview]]] = {}
        fetched: Counter[str] = Counter()
        for segment in segments:
            if segment.start >= end:
                break
            start, stop = max(segment.start, at), min(segment.stop, end)
            if start < stop:
                tensor = self._tensors[segment.target]
                position = segment.position + start - segment.start
                place = tensor.staging, tensor.payload[0]
                parts.setdefault(place, []).append((position, data[start - at : stop - at]))
                fetched[tensor.module] += stop - start
        for (staging, number), writes in parts.items():
            self._staged[staging].write(number, writes)
        complete = next((n for n, each in enumerate(segments) if each.stop > end), len(segments))
        del segments[:complete]
        self._report(fetched)

    def copy(self, source: int, segment: Segment) -> int:
        """Copy a segment from an open pack, and return the number of bytes copied."""
        self.check()
        tensor = self._tensors[segment.target]
        staged = self._staged[tensor.staging]
        length = segment.stop - segment.start
        count = staged.copy(tensor.payload[0], segment.position, source, segment.start, length)
        self._report({tensor.module: count})
        return count

    def copy_hashed(self, source: int, number: int) -> tuple[Digest, int]:
        """Copy a whole plain tensor from an open pack; return its digest and length as written."""
        tensor, state, done = self._tensors[number], hashlib.sha256(), 0
        staged, (area, span) = self._staged[tensor.staging], tensor.payload
        beside = self._beside if span[1] - span[0] >= _LARGE else None
        while (wanted := min(_STEP, span[1] - span[0] - done)) > 0:
            self.check()
            place = tensor.entry.offset + done
            count = staged.copy(area, span[0] + done, source, place, wanted, state, beside)
            self._report({tensor.module: count})
            done += count
            if count < wanted:
                break
        return digest_of(state), done

    def length(self, number: int) -> int:
        """Return how many bytes are fetched for a tensor."""
        start, stop = self._tensors[number].payload[1]
        return stop - start

    def check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def pause(self, tries: int) -> None:
        self._cancelled.wait(PAUSE * 2**tries * random.uniform(0.5, 1))  # noqa: S311
        self.check()

    def _report(self, fetched: dict[str, int]) -> None:
        if self._progress is not None:
            for module, count in fetched.items():
                self._progress(module, count)


class RemotePack:
    """One pack of a registry, of which pieces are fetched."""

    def __init__(self, registry: Registry, pack: str, what: str, sink: Sink) -> None:
        self.registry = registry
        self.pack = parse_digest(pack)
        self.addresses: set[str] = set()
        """The addresses that bytes came from: of places, of mirrors, or of the registry."""
        self._what = what
        self._sink = sink
        self._whole = threading.Lock()
        self._whole_fetched = False
        self.pieces: list[tuple[Span, list[Segment]]] = []
        self.local = registry.local_path(self.pack)
        """Its file, if it is copied and not fetched."""

    def fetch(self, number: int) -> None:
        """Fetch one of the pieces.

        Raises:
            PackError: The pack ends before the piece does.
            IntegrityError: The registry does not have the pack.
            RegistryUnreachable: The pack cannot be read.
            InstallError: The disk is full, or ``--offline`` forbids fetching.
        """
        span, segments = self.pieces[number]
        if self.local is not None:
            self._copy(segments)
            return
        try:
            self._stream(span, segments)
        except RangesUnsupported:
            with self._whole:
                if not self._whole_fetched:
                    self._stream_whole()
                    self._whole_fetched = True

    def copy_tensors(self, numbers: Iterable[int]) -> list[Digest]:
        """Copy plain tensors from a folder, and return the digests of what was written.

        Raises:
            PackError, IntegrityError, RegistryUnreachable, InstallError: As for `fetch`.
        """
        digests = []
        with self._open() as source:
            for number in numbers:
                digest, count = self._sink.copy_hashed(source.fileno(), number)
                if count < self._sink.length(number):
                    raise self._truncated(os.fstat(source.fileno()).st_size)
                digests.append(digest)
        return digests

    def _copy(self, segments: Iterable[Segment]) -> None:
        with self._open() as source:
            for segment in segments:
                if self._sink.copy(source.fileno(), segment) < segment.stop - segment.start:
                    raise self._truncated(os.fstat(source.fileno()).st_size)

    def _open(self) -> FileIO:
        """Return the open pack of a registry in a folder."""
        path = self.local or Path()
        try:
            return open_unbuffered(path)
        except (FileNotFoundError, NotADirectoryError):
            url = self.registry.url
            raise IntegrityError("M306", what=self._what, digest=self.pack, source=url) from None
        except IrregularFile as error:
            url, place = self.registry.url, blob_path(self.pack)
            raise RegistryUnreachable("M841", url=url, what=error.what, path=place) from None
        except OSError as error:
            reason = f"{path.name}: {error.strerror or error}"
            raise RegistryUnreachable("M302", url=self.registry.url, reason=reason) from None

    def _stream(self, span: Span, segments: list[Segment]) -> None:
        at, stop = span
        left = sorted(segments)
        tries = 0
        while left:
            before = at
            at = self._read_from(at, stop, left)
            tries = 0 if at - before >= bounds.PROGRESS_BYTES else tries + 1
            if left and tries == TRIES:
                raise self._truncated(at)
            if left:
                self._sink.pause(tries)

    def _read_from(self, at: int, stop: int | None, left: list[Segment]) -> int:
        """Read from ``at`` on, and return where the response ended."""
        end = max(segment.stop for segment in left) if stop is None else stop
        for chunk in self.registry.stream(self.pack, self._what, at, stop):
            self.addresses.add(self.registry.address_of(self.pack))
            data = memoryview(chunk)[: end - at]
            self._sink.write(at, data, left)
            at += len(data)
            if len(data) < len(chunk) or (stop is None and not left):
                break  # the server sends more than the range, or all segments are complete
        return at

    def _stream_whole(self) -> None:
        """Read the pack from its beginning, from a server that does not support ranges."""
        wanted = [segment for _, segments in self.pieces for segment in segments]
        at = 0
        for tries in range(TRIES):
            left = sorted(wanted)
            at = self._read_from(0, None, left)
            if not left:
                return
            self._sink.pause(tries)
        raise self._truncated(at)

    def _truncated(self, at: int) -> PackError:
        path = f"{self.registry.url}/{blob_path(self.pack)}"
        return PackError("M201", path=path, reason=f"it ends after {at} bytes, within {self._what}")
