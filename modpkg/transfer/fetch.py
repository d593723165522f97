"""Executes a transfer plan: ranges are fetched concurrently, and each tensor is verified.

Bytes are written to their offsets in unfinished packs (`modpkg.transfer.staging`), which another
process can resume. A tensor is decoded, if it is encoded, and hashed; a pack whose tensors are all
verified is moved into the store.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from modpkg.core import system
from modpkg.core.all_cores import on_all_cores
from modpkg.core.bounds import DISK_RESERVE
from modpkg.core.errors import IntegrityError, ModpkgError, ReleaseError
from modpkg.core.files import disk_full, human_bytes
from modpkg.core.ranges import Segment, left_of, pieces_of
from modpkg.registry.requests import abandon
from modpkg.release.verify import check_files
from modpkg.resolve.lock import LockedModule
from modpkg.store.store import Store
from modpkg.transfer.pieces import Cancelled, Progress, RemotePack, Sink
from modpkg.transfer.plan import FileFetch, TensorFetch, TransferPlan
from modpkg.transfer.staging import PACK, StagedPack, map_part

CONNECTIONS = 8
"""Pieces that are fetched at the same time."""
PIECE = 16 << 20
"""Most bytes of a piece."""
GAP = 64 << 10
"""Most bytes between two ranges that are fetched with them: faster than another request."""
BATCH = 4 << 20
"""Bytes of small tensors that are copied from a folder by one job."""
FLUSH = 4
"""Pieces after which a pack is flushed to disk."""
FLUSHES = 4
"""Packs that are flushed at the same time."""


def check_space(path: Path, needed: int) -> None:
    """Check that a number of bytes fits on the disk of a folder, which is created.

    Raises:
        InstallError: There is not enough free space.
    """
    path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path).free
    if needed and needed + DISK_RESERVE > free:
        raise disk_full(path, human_bytes(needed), reserve=DISK_RESERVE)


def fetch_all(
    plan: TransferPlan,
    modules: list[LockedModule],
    store: Store,
    progress: Progress | None = None,
) -> None:
    """Fetch everything that is missing into the store, and check each release as a whole once.

    After an error, what was fetched is kept for the next attempt.

    Raises:
        IntegrityError, ReleaseError, RecordError, PackError: A file, tensor or record does not
            match its digest, is malformed, or is missing from the registry.
        RegistryUnreachable: The registry cannot be read.
        InstallError: There is not enough disk space, or ``--offline`` forbids fetching.
    """
    if plan.needed:
        with contextlib.ExitStack() as locks:
            # In a fixed order, so that two processes never wait for each other.
            packs = sorted(plan.packs, key=lambda pack: pack.staging)
            staged = {p.staging: locks.enter_context(StagedPack(store, p)) for p in packs}
            _Transfer(plan, staged, store, progress).run()
    for module in modules:
        if not store.is_checked(module.release):
            check_files(plan.records[module.name], store.blobs.path)
        store.mark_checked(module.release)


class _Transfer:
    """One execution of a plan: the thread pools, and what its rounds share."""

    def __init__(
        self,
        plan: TransferPlan,
        staged: dict[str, StagedPack],
        store: Store,
        progress: Progress | None,
    ) -> None:
        self.plan = plan
        self.staged = staged
        self.progress = progress
        self.cancelled = threading.Event()
        self.network = ThreadPoolExecutor(CONNECTIONS, "modpkg-fetch")
        self.work = ThreadPoolExecutor(system.available_cores(), "modpkg-hash")
        self.beside = ThreadPoolExecutor(system.available_cores(), "modpkg-copy")
        self.disk = ThreadPoolExecutor(FLUSHES, "modpkg-disk")
        self._store = store
        self._listed = {tensor.entry.digest: tensor for tensor in plan.tensors}
        self._events: SimpleQueue[tuple[Future[Any], Callable[[Any], None]]] = SimpleQueue()
        self._running = 0

    def run(self) -> None:
        """Fetch everything, in rounds: tensors that fail verification may be fetched again."""
        todo = self._needed()
        packs = [self.staged[name] for name in sorted({tensor.staging for tensor in todo})]
        on_all_cores(StagedPack.begin, packs, lambda staged: sum(staged.pack.sizes))
        try:
            for file in self.plan.files:
                self.submit(self.network, partial(self._fetch_file, file))
            while todo:
                todo = _Round(self, todo).run()
            self.wait()
        except (KeyboardInterrupt, SystemExit):
            self.cancelled.set()
            abandon()  # or the pools would wait for a server
            raise
        finally:
            self.cancelled.set()
            for pool in (self.network, self.work, self.beside, self.disk):
                pool.shutdown(cancel_futures=True)

    def _needed(self) -> list[TensorFetch]:
        """Return the tensors to fetch: another process may have finished some packs."""
        needed: set[str] = set()
        for tensor in reversed(self.plan.tensors):
            in_pack = tensor.final[0] == PACK
            if in_pack and self.staged[tensor.staging].finished:
                continue
            if in_pack or tensor.entry.digest in needed:
                needed.add(tensor.entry.digest)
                if (base := self.base_tensor(tensor)) is not None:
                    needed.add(base.entry.digest)
        listed = (t for t in self.plan.tensors if t.entry.digest in needed)
        return [t for t in listed if t.final[0] != PACK or not self.staged[t.staging].finished]

    def submit(
        self,
        pool: ThreadPoolExecutor,
        job: Callable[[], Any],
        then: Callable[[Any], None] = lambda result: None,
    ) -> None:
        """Run a job in a pool; `wait` calls ``then`` with its result in this thread."""
        self._running += 1
        pool.submit(job).add_done_callback(lambda future: self._events.put((future, then)))

    def wait(self) -> None:
        """Wait for all jobs, and those that they submit; raise the first error."""
        while self._running:
            future, then = self._events.get()
            self._running -= 1
            then(future.result())

    def _fetch_file(self, file: FileFetch) -> None:
        if self._store.blobs.has(file.digest):  # since it was planned: planning itself read it
            if self.progress is not None:
                self.progress(file.module, file.size)
            return
        while True:
            address = file.registry.address_of(file.digest)
            try:
                chunks = self._chunks(file)
                self._store.blobs.add_stream(chunks, file.digest, file.what, address)
                return
            except IntegrityError:
                reason = f"its {file.what} has another digest"
                if not file.registry.disable(address, reason):
                    raise

    def _chunks(self, file: FileFetch) -> Iterator[bytes]:
        """Yield the file's chunks, up to a chunk beyond its size."""
        left = file.size
        for chunk in file.registry.stream(file.digest, file.what):
            left -= len(chunk)
            if self.cancelled.is_set():
                raise Cancelled
            if self.progress is not None:
                self.progress(file.module, len(chunk))
            yield chunk
            if left < 0:
                return  # too long, so the digest cannot match: do not fill the disk

    def base_tensor(self, tensor: TensorFetch) -> TensorFetch | None:
        """Return the tensor of the plan that a tensor is decoded on, if any."""
        encoding = tensor.entry.encoding
        if encoding is None or encoding.base is None or encoding.base in self.plan.bases:
            return None
        return self._listed[encoding.base]

    def base_bytes(self, tensor: TensorFetch) -> memoryview | None:
        """Return the bytes that a tensor is decoded on, if any."""
        encoding = tensor.entry.encoding
        if encoding is None or encoding.base is None:
            return None
        base = self.base_tensor(tensor)
        if base is not None and not self._is_finished(base):
            return self.staged[base.staging].view(*base.final)
        place = (self.plan.bases if base is None else self.plan.places)[encoding.base]
        return map_part(self._store.packs.path(place.pack), place.offset, place.length)

    def _is_finished(self, tensor: TensorFetch) -> bool:
        return tensor.final[0] == PACK and self.staged[tensor.staging].finished


class _Round:
    """One attempt at all missing tensors: fetch pieces, verify tensors, finish packs."""

    def __init__(self, transfer: _Transfer, todo: list[TensorFetch]) -> None:
        self._transfer = transfer
        self._todo = todo
        self._numbers = {tensor.entry.digest: number for number, tensor in enumerate(todo)}
        self._waiting: Counter[int] = Counter()
        """By tensor, the number of pieces and base tensors that it waits for."""
        self._followers: dict[int, list[int]] = {}
        self._resumed: set[int] = set()
        self._whole: set[int] = set()
        """Plain tensors that are hashed while they are copied from a folder."""
        self._remotes: dict[tuple[int, str], RemotePack] = {}
        self._verified: set[int] = set()
        self._errors: dict[int, ModpkgError] = {}
        self._pieces: Counter[str] = Counter()
        self._open = Counter(t.staging for t in todo if t.final[0] == PACK)

    def run(self) -> list[TensorFetch]:
        """Return the tensors that have to be fetched again."""
        pieces = self._plan_pieces()
        for number, tensor in enumerate(self._todo):
            base = self._transfer.base_tensor(tensor)
            before = self._numbers.get(base.entry.digest) if base is not None else None
            if before is not None:
                self._waiting[number] += 1
                self._followers.setdefault(before, []).append(number)
        for numbers in self._copies():
            self._transfer.submit(
                self._transfer.work,
                partial(self._copied, numbers),
                partial(self._copies_done, numbers),
            )
        for number in range(len(self._todo)):
            if not self._waiting[number] and number not in self._whole:
                self._verify(number)
        for remote, at, targets in pieces:
            self._transfer.submit(
                self._transfer.network,
                partial(remote.fetch, at),
                partial(self._piece_fetched, targets),
            )
        self._transfer.wait()
        for number, error in sorted(self._errors.items()):
            tensor = self._todo[number]
            self._transfer.staged[tensor.staging].discard(*tensor.payload)
            if not self._retry_can_help(number, error):
                raise error
        for staged in self._transfer.staged.values():
            staged.refresh()
        return [tensor for number, tensor in enumerate(self._todo) if number not in self._verified]

    def _plan_pieces(self) -> list[tuple[RemotePack, int, set[int]]]:
        """Return the pieces to fetch: pack, number of the piece, and the tensors that it is for."""
        sink = Sink(
            self._todo,
            self._transfer.staged,
            self._transfer.progress,
            self._transfer.cancelled,
            self._transfer.beside,
        )
        segments: dict[tuple[int, str], list[Segment]] = {}
        for number, tensor in enumerate(self._todo):
            area, span = tensor.payload
            left = left_of(span, self._transfer.staged[tensor.staging].done[area])
            if left != [span]:
                self._resumed.add(number)
            source = id(tensor.registry), tensor.entry.pack
            if source not in self._remotes:
                what = f"the weights of {tensor.label}"
                self._remotes[source] = RemotePack(tensor.registry, source[1], what, sink)
            plain = tensor.entry.encoding is None
            if plain and left == [span] and self._remotes[source].local is not None:
                self._whole.add(number)
                continue
            shift = tensor.entry.offset - span[0]
            segments.setdefault(source, []).extend(
                Segment(start + shift, stop + shift, number, start) for start, stop in left
            )
        pieces = []
        for source, wanted in segments.items():
            remote = self._remotes[source]
            remote.pieces = pieces_of(wanted, GAP, PIECE)
            for at, (_, inside) in enumerate(remote.pieces):
                targets = {segment.target for segment in inside}
                self._waiting.update(targets)
                pieces.append((remote, at, targets))
        return pieces

    def _piece_fetched(self, targets: set[int], result: None = None) -> None:
        for staging in {self._todo[number].staging for number in targets}:
            self._pieces[staging] += 1
            if self._pieces[staging] % FLUSH == 0:
                self._transfer.submit(self._transfer.disk, self._transfer.staged[staging].flush)
        self._count_down(targets)

    def _count_down(self, targets: Iterable[int]) -> None:
        for number in sorted(targets):
            self._waiting[number] -= 1
            if not self._waiting[number]:
                self._verify(number)

    def _verify(self, number: int) -> None:
        self._transfer.submit(
            self._transfer.work,
            partial(self._error_in, self._todo[number]),
            partial(self._verification_done, number),
        )

    def _copies(self) -> Iterator[list[int]]:
        """Yield plain tensors to copy from a folder, the largest first, small ones together."""
        held: dict[tuple[int, str], list[int]] = {}
        sizes: Counter[tuple[int, str]] = Counter()
        for number in sorted(self._whole, key=lambda number: -self._todo[number].entry.length):
            entry = self._todo[number].entry
            source = id(self._todo[number].registry), entry.pack
            held.setdefault(source, []).append(number)
            sizes[source] += entry.length
            if sizes[source] >= BATCH:
                yield held.pop(source)
                del sizes[source]
        yield from held.values()

    def _copied(self, numbers: list[int]) -> list[ModpkgError | None]:
        """Copy plain tensors of one pack from a folder, and return the error of each, if any."""
        tensors = [self._todo[number] for number in numbers]
        remote = self._remotes[id(tensors[0].registry), tensors[0].entry.pack]
        return list(map(_mismatch, tensors, remote.copy_tensors(numbers)))

    def _copies_done(self, numbers: list[int], errors: list[ModpkgError | None]) -> None:
        for number, error in zip(numbers, errors, strict=True):
            self._verification_done(number, error)

    def _error_in(self, tensor: TensorFetch) -> ModpkgError | None:
        """Decode a tensor if it is encoded, and hash it; return the error, if any."""
        staged = self._transfer.staged[tensor.staging]
        entry = tensor.entry
        if entry.encoding is not None:
            from modpkg.deltas import decode

            base = self._transfer.base_bytes(tensor)
            payload, out = staged.view(*tensor.payload), staged.view(*tensor.final)
            try:
                decode(entry.encoding.method, payload, base, out, entry.dtype, tensor.what)
            except ReleaseError as error:
                return error
        return _mismatch(tensor, staged.digest(*tensor.final))

    def _verification_done(self, number: int, error: ModpkgError | None) -> None:
        if error is not None:
            self._errors[number] = error
            return
        tensor = self._todo[number]
        self._verified.add(number)
        self._count_down(self._followers.get(number, ()))
        if tensor.final[0] == PACK:
            self._open[tensor.staging] -= 1
            if not self._open[tensor.staging]:
                staged = self._transfer.staged[tensor.staging]
                self._transfer.submit(self._transfer.disk, staged.finish)

    def _retry_can_help(self, number: int, error: ModpkgError) -> bool:
        """Return whether to fetch again: an earlier process, a mirror or a place gave the bytes."""
        tensor = self._todo[number]
        remote = self._remotes[id(tensor.registry), tensor.entry.pack]
        reason = f"its {tensor.what} does not match the release ({error.code})"
        others = [tensor.registry.disable(address, reason) for address in remote.addresses]
        return number in self._resumed or any(others)


def _mismatch(tensor: TensorFetch, actual: str) -> IntegrityError | None:
    """Return the error for a tensor that has another digest; None if it has its own."""
    if actual == tensor.entry.digest:
        return None
    return IntegrityError(
        "M305",
        what=tensor.what,
        expected=tensor.entry.digest,
        actual=actual,
        source=tensor.registry.url,
    )
