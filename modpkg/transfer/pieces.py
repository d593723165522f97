"""Pieces: parts of a registry's packs, fetched and put where their bytes belong."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.errors import IntegrityError, PackError, RegistryUnreachable
from modpkg.registry.reader import Registry
from modpkg.registry.source import RangesUnsupported
from modpkg.transfer.plan import TensorFetch
from modpkg.transfer.ranges import Segment, Span
from modpkg.transfer.staging import StagedPack

Progress = Callable[[str, int], None]
"""Called, in any thread, with a module's name and how many more bytes of it have come."""

TRIES = 4
"""How often a piece may end early without a byte more, before its pack counts as cut."""
PAUSE = 0.2
"""Seconds before the first new try; each further pause is twice as long."""


class Cancelled(Exception):
    """Another piece failed: what this one has is kept for the next time."""


class Sink:
    """Where fetched bytes go, for all pieces of one transfer."""

    def __init__(
        self,
        tensors: Sequence[TensorFetch],
        staged: dict[str, StagedPack],
        progress: Progress | None,
        cancelled: threading.Event,
    ) -> None:
        """``Segment.target`` is the number of a tensor in ``tensors``."""
        self._tensors = tensors
        self._staged = staged
        self._progress = progress
        self._cancelled = cancelled

    def write(self, at: int, data: memoryview, segments: list[Segment]) -> None:
        """Write what ``segments`` want of the bytes that begin at ``at``; drop those that end."""
        self.check()
        end = at + len(data)
        parts: dict[tuple[str, int], list[tuple[int, memoryview]]] = {}
        came: Counter[str] = Counter()
        for segment in segments:
            if segment.start >= end:
                break
            start, stop = max(segment.start, at), min(segment.stop, end)
            if start < stop:
                tensor = self._tensors[segment.target]
                position = segment.position + start - segment.start
                place = tensor.staging, tensor.payload[0]
                parts.setdefault(place, []).append((position, data[start - at : stop - at]))
                came[tensor.module] += stop - start
        for (staging, number), writes in parts.items():
            self._staged[staging].write(number, writes)
        while segments and segments[0].stop <= end:
            segments.pop(0)
        self._tell(came)

    def copy(self, source: int, segment: Segment) -> int:
        """Copy one segment out of an open pack; return how many bytes it had."""
        self.check()
        tensor = self._tensors[segment.target]
        staged = self._staged[tensor.staging]
        length = segment.stop - segment.start
        count = staged.copy(tensor.payload[0], segment.position, source, segment.start, length)
        self._tell({tensor.module: count})
        return count

    def check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def pause(self, tries: int) -> None:
        self._cancelled.wait(PAUSE * 2**tries * random.uniform(0.5, 1))  # noqa: S311
        self.check()

    def _tell(self, came: dict[str, int]) -> None:
        if self._progress is not None:
            for module, count in came.items():
                self._progress(module, count)


class RemotePack:
    """One pack of a registry, from which pieces are wanted."""

    def __init__(self, registry: Registry, pack: str, what: str, sink: Sink) -> None:
        self.registry = registry
        self.pack = parse_digest(pack)
        self.addresses: set[str] = set()
        """Where bytes came from: a mirror, or the registry."""
        self._what = what
        self._sink = sink
        self._whole = threading.Lock()
        self._came_whole = False
        self.pieces: list[tuple[Span, list[Segment]]] = []

    def fetch(self, number: int) -> None:
        """Fetch one of the pieces.

        Raises:
            PackError: the pack ends before the piece does.
            IntegrityError, InstallError, RegistryUnreachable.
        """
        span, segments = self.pieces[number]
        if (folder := self.registry.folder) is not None:
            self._copy(folder / blob_path(self.pack), segments)
            return
        try:
            self._stream(span, segments)
        except RangesUnsupported:
            with self._whole:
                if not self._came_whole:
                    self._stream_whole()
                    self._came_whole = True

    def _copy(self, path: Path, segments: Iterable[Segment]) -> None:
        try:
            source = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, NotADirectoryError):
            url = self.registry.url
            raise IntegrityError("M306", what=self._what, digest=self.pack, source=url) from None
        except OSError as error:
            reason = f"{path.name}: {error.strerror or error}"
            raise RegistryUnreachable("M302", url=self.registry.url, reason=reason) from None
        try:
            for segment in segments:
                if self._sink.copy(source, segment) < segment.stop - segment.start:
                    raise self._cut(os.fstat(source).st_size)
        finally:
            os.close(source)

    def _stream(self, span: Span, segments: list[Segment]) -> None:
        at, stop = span
        left = sorted(segments)
        tries = 0
        while left:
            before = at
            at = self._some(at, stop, left)
            tries = 0 if at > before else tries + 1
            if tries == TRIES:
                raise self._cut(at)
            if left:
                self._sink.pause(tries)

    def _some(self, at: int, stop: int | None, left: list[Segment]) -> int:
        """Read on from ``at``, and return where the answer ended."""
        self.addresses.add(self.registry.current_address)
        end = max(segment.stop for segment in left) if stop is None else stop
        for chunk in self.registry.stream(self.pack, self._what, at, stop):
            data = memoryview(chunk)[: end - at]
            self._sink.write(at, data, left)
            at += len(data)
            if len(data) < len(chunk) or (stop is None and not left):
                break  # more than was asked for, or than is wanted
        return at

    def _stream_whole(self) -> None:
        """Read the pack from its beginning, for a server that gives whole files only."""
        wanted = [segment for _, segments in self.pieces for segment in segments]
        at = 0
        for tries in range(TRIES):
            left = sorted(wanted)
            at = self._some(0, None, left)
            if not left:
                return
            self._sink.pause(tries)
        raise self._cut(at)

    def _cut(self, at: int) -> PackError:
        path = f"{self.registry.url}/{blob_path(self.pack)}"
        return PackError("M201", path=path, reason=f"it ends after {at} bytes, before {self._what}")
