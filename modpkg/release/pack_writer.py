"""Writing the packs of a build: each byte is read, hashed for its tensor and its pack, and written.

Packs are of bounded size, so that they are hashed and written side by side: a digest is computed
from the first byte to the last, on one core.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from msgspec import Struct

from modpkg.core import system
from modpkg.core.digests import Digest, digest_of
from modpkg.core.errors import ReleaseError
from modpkg.core.files import disk_errors, make_folder, rename
from modpkg.core.hashed_copy import copy_hashed
from modpkg.core.packs import PackTensor, pack_header, pack_order
from modpkg.core.regular_file import CutShort, open_unbuffered
from modpkg.core.tensors import types_of
from modpkg.core.tree import BlobTree

PACK_BYTES = 256_000_000
"""Bytes of tensors from which on a pack gets no more; a larger tensor has one of its own."""


class Part(Struct, frozen=True):
    """A range of bytes in a file: a tensor of the project, or its encoded form."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


class WrittenPack(Struct, frozen=True):
    """A pack in a build's spool."""

    path: Path
    digest: Digest
    size: int
    parts: Mapping[str, Part]
    """What it was written from."""
    places: dict[str, PackTensor]
    digests: dict[str, Digest]
    """Of the tensors, as they were written."""
    kept: Path | None = None
    """The file that it is, as it is."""

    def part(self, name: str) -> Part:
        """Return a tensor in this pack."""
        place = self.places[name]
        return Part(self.path, place.dtype, place.shape, place.offset, place.length)

    def move_to(self, tree: BlobTree) -> None:
        """Make the pack a blob of a tree on the same file system."""
        target = tree.path(self.digest)
        make_folder(target.parent)
        rename(self.path, target)
        system.sync_folder(target.parent)


def divided(parts: Mapping[str, Part]) -> list[dict[str, Part]]:
    """Return the tensors of each pack, in the order in which they are packed."""
    packs: list[dict[str, Part]] = []
    size = 0
    for name in pack_order(types_of(parts)):
        part = parts[name]
        if not packs or (size and size + part.length > PACK_BYTES):
            packs.append({})
            size = 0
        packs[-1][name] = part
        size += part.length
    return packs


class PackWriter:
    """Writes packs into one folder, on every core; within a ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = 0
        self._ended = threading.Event()
        cores = system.available_cores()
        self._packs = ThreadPoolExecutor(cores, "modpkg-pack")
        self._hashes = ThreadPoolExecutor(cores, "modpkg-hash")
        self._disk = ThreadPoolExecutor(cores, "modpkg-disk")

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for pool in (self._packs, self._hashes, self._disk):
            pool.shutdown(cancel_futures=True)

    def write(
        self,
        groups: Sequence[Mapping[str, Part]],
        *,
        expected: Mapping[str, str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[WrittenPack]:
        """Write one pack of each group, the largest first, and return them in the groups' order.

        Args:
            groups: Tensors by their names in the pack.
            expected: Digests that were computed before, by name.
            progress: Called, in any thread, with the bytes of each tensor.

        Raises:
            ReleaseError: A tensor has another digest now.
            InstallError: The disk is full.
            OSError: A file cannot be read, or not to its end.
        """
        sizes = [sum(part.length for part in group.values()) for group in groups]
        jobs: dict[int, Future[tuple[WrittenPack, Future[None]]]] = {}
        for number in sorted(range(len(groups)), key=lambda number: -sizes[number]):
            target = self._folder / f"pack-{self._written + number}"
            jobs[number] = self._packs.submit(
                self._write, target, groups[number], expected or {}, progress
            )
        self._written += len(groups)
        try:
            written = [jobs[number].result() for number in range(len(groups))]
        except BaseException:
            self._ended.set()
            raise
        for pack, flushed in written:
            with disk_errors(pack.path.parent, pack.path):
                flushed.result()
        return [pack for pack, _ in written]

    def keep(
        self,
        files: Mapping[Path, Mapping[str, Part]],
        progress: Callable[[int], None] | None = None,
    ) -> list[WrittenPack]:
        """Write a pack of each file, which is the file as it is, and return them in this order.

        Args:
            files: The tensors of each file, by their names in the release.
            progress: Called, in any thread, with the bytes of each tensor.

        Raises:
            InstallError: The disk is full.
            OSError: A file cannot be read, or not to its end.
        """
        jobs = []
        for path, parts in files.items():
            target = self._folder / f"pack-{self._written}"
            self._written += 1
            jobs.append(self._packs.submit(self._keep, target, path, parts, progress))
        try:
            return [job.result() for job in jobs]
        except BaseException:
            self._ended.set()
            raise

    def _keep(
        self,
        target: Path,
        path: Path,
        parts: Mapping[str, Part],
        progress: Callable[[int], None] | None,
    ) -> WrittenPack:
        whole, at = hashlib.sha256(), 0
        digests: dict[str, Digest] = {}
        with disk_errors(target.parent, target), contextlib.ExitStack() as files:
            out = files.enter_context(open(target, "xb", buffering=0))
            source = files.enter_context(open_unbuffered(path))
            size = os.fstat(source.fileno()).st_size

            def copy(stop: int, *states: hashlib._Hash) -> None:
                nonlocal at
                count = copy_hashed(
                    source.fileno(),
                    at,
                    stop - at,
                    out.fileno(),
                    at,
                    (*states, whole),
                    beside=self._hashes,
                    check=self._check,
                )
                if count < stop - at:
                    raise CutShort(path)
                at = stop

            for name, part in sorted(parts.items(), key=lambda item: item[1].offset):
                if part.length and part.offset < at:
                    raise AssertionError("tensors of a sound file do not overlap")
                copy(max(at, part.offset))
                state = hashlib.sha256()
                copy(at + part.length, state)
                digests[name] = digest_of(state)
                if progress is not None:
                    progress(part.length)
            copy(size)
            system.set_descriptor_mode(out.fileno(), 0o444)
            os.fsync(out.fileno())
        places = {
            name: PackTensor(part.dtype, part.shape, part.offset, part.length)
            for name, part in parts.items()
        }
        return WrittenPack(target, digest_of(whole), size, parts, places, digests, kept=path)

    def _write(
        self,
        target: Path,
        parts: Mapping[str, Part],
        expected: Mapping[str, str],
        progress: Callable[[int], None] | None,
    ) -> tuple[WrittenPack, Future[None]]:
        """Write a pack; the second result tells when it is on the disk."""
        header, places = pack_header(types_of(parts))
        whole = hashlib.sha256(header)
        digests: dict[str, Digest] = {}
        with disk_errors(target.parent, target), contextlib.ExitStack() as files:
            out = files.enter_context(open(target, "xb", buffering=0))
            system.write_at(out.fileno(), header, 0)
            sources: dict[Path, FileIO] = {}
            for name, place in places.items():
                part, state = parts[name], hashlib.sha256()
                if part.path not in sources:
                    sources[part.path] = files.enter_context(open_unbuffered(part.path))
                count = copy_hashed(
                    sources[part.path].fileno(),
                    part.offset,
                    part.length,
                    out.fileno(),
                    place.offset,
                    (state, whole),
                    beside=self._hashes,
                    check=self._check,
                )
                if count < part.length:
                    raise CutShort(part.path)
                digests[name] = digest_of(state)
                if expected.get(name, digests[name]) != digests[name]:
                    raise ReleaseError("M859", path=part.path, what=f"tensor {name!r}")
                if progress is not None:
                    progress(part.length)
            system.set_descriptor_mode(out.fileno(), 0o444)
            size = max((p.offset + p.length for p in places.values()), default=len(header))
            flushed = self._disk.submit(_flush, os.dup(out.fileno()))
        pack = WrittenPack(target, digest_of(whole), size, parts, places, digests)
        return pack, flushed

    def _check(self) -> None:
        if self._ended.is_set():
            raise InterruptedError("another pack could not be written")


def _flush(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
