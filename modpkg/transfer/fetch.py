"""Fetching what a plan names: many ranges at once, each tensor hashed before it is used.

Bytes go straight to their places in unfinished packs (`modpkg.transfer.staging`), from which
another process can go on. A tensor is decoded when it is encoded, hashed, and only then counted; a
pack whose tensors are all there is renamed into the store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from modpkg.core.errors import InstallError, IntegrityError, ModpkgError, ReleaseError
from modpkg.core.files import human_bytes
from modpkg.release.verify import check_files
from modpkg.resolve.lock import LockedModule
from modpkg.store.store import Store
from modpkg.transfer.pieces import Cancelled, Progress, RemotePack, Sink
from modpkg.transfer.plan import FileFetch, TensorFetch, TransferPlan
from modpkg.transfer.ranges import Segment, pieces_of, subtract
from modpkg.transfer.staging import PACK, StagedPack, map_part

CONNECTIONS = 8
"""Pieces that are fetched at once."""
PIECE = 16 << 20
"""Longest piece in bytes."""
GAP = 64 << 10
"""Bytes between two wanted ranges that are fetched too: quicker than another request."""
FLUSH = 4
"""Pieces after which the disk is asked to take what has come."""
DISK_RESERVE = 16 << 20
"""Bytes that are left free on the disk beyond what is fetched."""


def check_space(path: Path, needed: int) -> None:
    """Raise `InstallError` when ``needed`` bytes do not fit where ``path`` lies."""
    path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path).free
    if needed and needed + DISK_RESERVE > free:
        raise InstallError("M502", path=path, needed=human_bytes(needed), free=human_bytes(free))


def fetch_all(
    plan: TransferPlan,
    modules: list[LockedModule],
    store: Store,
    progress: Progress | None = None,
) -> None:
    """Bring all that is missing into the store, and check each release as a whole once.

    What was fetched before an error stays for the next time.

    Raises:
        IntegrityError, ReleaseError, RecordError, PackError: what came is not what the lock
            names. InstallError, RegistryUnreachable, IntegrityError.
    """
    if plan.needed:
        with contextlib.ExitStack() as held:
            # In one order, so that two processes never wait for each other.
            packs = sorted(plan.packs, key=lambda pack: pack.staging)
            staged = {p.staging: held.enter_context(StagedPack(store, p)) for p in packs}
            _Transfer(plan, staged, store, progress).run()
    for module in modules:
        if not store.is_checked(module.release):
            check_files(plan.records[module.name], store.blobs.path)
        store.mark_checked(module.release)


class _Transfer:
    """One run of a plan: the pools, and what all its rounds share."""

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
        self.work = ThreadPoolExecutor(_cores(), "modpkg-hash")
        self.disk = ThreadPoolExecutor(1, "modpkg-disk")
        self._store = store
        self._listed = {tensor.entry.digest: tensor for tensor in plan.tensors}
        self._events: SimpleQueue[tuple[Future[Any], Callable[[Any], None]]] = SimpleQueue()
        self._running = 0

    def run(self) -> None:
        """Fetch everything; rounds, because what turns out to be wrong may be fetched once more."""
        todo = self._needed()
        for name in sorted({tensor.staging for tensor in todo}):
            self.staged[name].begin()
        try:
            for file in self.plan.files:
                self.submit(self.network, partial(self._fetch_file, file))
            while todo:
                todo = _Round(self, todo).run()
            self.wait()
        finally:
            self.cancelled.set()
            for pool in (self.network, self.work, self.disk):
                pool.shutdown(cancel_futures=True)

    def _needed(self) -> list[TensorFetch]:
        """Return what is to be fetched now: another process may have finished some packs."""
        needed: set[str] = set()
        for tensor in reversed(self.plan.tensors):
            kept = tensor.final[0] == PACK
            if kept and self.staged[tensor.staging].finished:
                continue
            if kept or tensor.entry.digest in needed:
                needed.add(tensor.entry.digest)
                if (earlier := self.earlier(tensor)) is not None:
                    needed.add(earlier.entry.digest)
        listed = (t for t in self.plan.tensors if t.entry.digest in needed)
        return [t for t in listed if t.final[0] != PACK or not self.staged[t.staging].finished]

    def submit(
        self,
        pool: ThreadPoolExecutor,
        job: Callable[[], Any],
        then: Callable[[Any], None] = lambda result: None,
    ) -> None:
        """Have a job done, and its result told in this thread, while it waits."""
        self._running += 1
        pool.submit(job).add_done_callback(lambda future: self._events.put((future, then)))

    def wait(self) -> None:
        """Wait for all jobs, and those that they lead to; raise the first error."""
        while self._running:
            future, then = self._events.get()
            self._running -= 1
            then(future.result())

    def _fetch_file(self, file: FileFetch) -> None:
        while True:
            address = file.registry.current_address
            try:
                chunks = self._bounded(file)
                self._store.blobs.add_stream(chunks, file.digest, file.what, address)
                return
            except IntegrityError:
                why = f"what it has as {file.what} has another digest"
                if not file.registry.disable_mirror(address, why):
                    raise

    def _bounded(self, file: FileFetch) -> Iterator[bytes]:
        """Yield the file's chunks, and stop one that is longer than the record says."""
        left = file.size
        for chunk in file.registry.stream(file.digest, file.what):
            left -= len(chunk)
            if self.cancelled.is_set():
                raise Cancelled
            if self.progress is not None:
                self.progress(file.module, len(chunk))
            yield chunk
            if left < 0:
                return  # the digest cannot match any more; do not fill the disk

    def earlier(self, tensor: TensorFetch) -> TensorFetch | None:
        """Return the tensor of the plan that one is decoded on; None when that one is here."""
        encoding = tensor.entry.encoding
        if encoding is None or encoding.base is None or encoding.base in self.plan.bases:
            return None
        return self._listed[encoding.base]

    def base(self, tensor: TensorFetch) -> memoryview | None:
        """Return the bytes that a tensor is decoded on; None when it needs none."""
        encoding = tensor.entry.encoding
        if encoding is None or encoding.base is None:
            return None
        earlier = self.earlier(tensor)
        if earlier is not None and not self._finished_elsewhere(earlier):
            return self.staged[earlier.staging].view(*earlier.final)
        place = (self.plan.bases if earlier is None else self.plan.places)[encoding.base]
        return map_part(self._store.packs.path(place.pack), place.offset, place.length)

    def _finished_elsewhere(self, tensor: TensorFetch) -> bool:
        return tensor.final[0] == PACK and self.staged[tensor.staging].finished


class _Round:
    """All that is missing, once: pieces come, tensors are checked, packs are finished."""

    def __init__(self, transfer: _Transfer, todo: list[TensorFetch]) -> None:
        self._transfer = transfer
        self._todo = todo
        self._numbers = {tensor.entry.digest: number for number, tensor in enumerate(todo)}
        self._waiting: Counter[int] = Counter()
        """By tensor, how many pieces and earlier tensors it still waits for."""
        self._followers: dict[int, list[int]] = {}
        self._resumed: set[int] = set()
        self._remotes: dict[tuple[int, str], RemotePack] = {}
        self._good: set[int] = set()
        self._errors: dict[int, ModpkgError] = {}
        self._pieces: Counter[str] = Counter()
        self._open = Counter(t.staging for t in todo if t.final[0] == PACK)

    def run(self) -> list[TensorFetch]:
        """Return what has to be fetched again."""
        pieces = self._plan_pieces()
        for number, tensor in enumerate(self._todo):
            earlier = self._transfer.earlier(tensor)
            before = self._numbers.get(earlier.entry.digest) if earlier is not None else None
            if before is not None:
                self._waiting[number] += 1
                self._followers.setdefault(before, []).append(number)
        for number in range(len(self._todo)):
            if not self._waiting[number]:
                self._check(number)
        for remote, at, targets in pieces:
            self._transfer.submit(
                self._transfer.network,
                partial(remote.fetch, at),
                partial(self._piece_came, targets),
            )
        self._transfer.wait()
        for number, error in sorted(self._errors.items()):
            tensor = self._todo[number]
            self._transfer.staged[tensor.staging].forget(*tensor.payload)
            if not self._worth_another_try(number, error):
                raise error
        for staged in self._transfer.staged.values():
            staged.refresh()
        return [tensor for number, tensor in enumerate(self._todo) if number not in self._good]

    def _plan_pieces(self) -> list[tuple[RemotePack, int, set[int]]]:
        """Return what to fetch: pieces of packs, and the tensors that each piece is for."""
        sink = Sink(
            self._todo, self._transfer.staged, self._transfer.progress, self._transfer.cancelled
        )
        segments: dict[tuple[int, str], list[Segment]] = {}
        for number, tensor in enumerate(self._todo):
            area, span = tensor.payload
            left = subtract([span], self._transfer.staged[tensor.staging].done[area])
            if left != [span]:
                self._resumed.add(number)
            source = id(tensor.registry), tensor.entry.pack
            shift = tensor.entry.offset - span[0]
            segments.setdefault(source, []).extend(
                Segment(start + shift, stop + shift, number, start) for start, stop in left
            )
            if source not in self._remotes:
                what = f"the weights of {tensor.label}"
                self._remotes[source] = RemotePack(tensor.registry, source[1], what, sink)
        pieces = []
        for source, wanted in segments.items():
            remote = self._remotes[source]
            remote.pieces = pieces_of(wanted, GAP, PIECE)
            for at, (_, inside) in enumerate(remote.pieces):
                targets = {segment.target for segment in inside}
                self._waiting.update(targets)
                pieces.append((remote, at, targets))
        return pieces

    def _piece_came(self, targets: set[int], result: None = None) -> None:
        for staging in {self._todo[number].staging for number in targets}:
            self._pieces[staging] += 1
            if self._pieces[staging] % FLUSH == 0:
                self._transfer.submit(self._transfer.disk, self._transfer.staged[staging].flush)
        self._came(targets)

    def _came(self, targets: Iterable[int]) -> None:
        for number in sorted(targets):
            self._waiting[number] -= 1
            if not self._waiting[number]:
                self._check(number)

    def _check(self, number: int) -> None:
        self._transfer.submit(
            self._transfer.work,
            partial(self._error_in, self._todo[number]),
            partial(self._checked, number),
        )

    def _error_in(self, tensor: TensorFetch) -> ModpkgError | None:
        """Decode a tensor if it is encoded, and hash it; return what is wrong with it."""
        staged = self._transfer.staged[tensor.staging]
        entry = tensor.entry
        if entry.encoding is not None:
            from modpkg.deltas import decode

            base = self._transfer.base(tensor)
            payload, out = staged.view(*tensor.payload), staged.view(*tensor.final)
            try:
                decode(entry.encoding.method, payload, base, out, entry.dtype, tensor.what)
            except ReleaseError as error:
                return error
        actual = staged.digest(*tensor.final)
        if actual == entry.digest:
            return None
        return IntegrityError(
            "M305",
            what=tensor.what,
            expected=entry.digest,
            actual=actual,
            source=tensor.registry.url,
        )

    def _checked(self, number: int, error: ModpkgError | None) -> None:
        if error is not None:
            self._errors[number] = error
            return
        tensor = self._todo[number]
        self._good.add(number)
        self._came(self._followers.get(number, ()))
        if tensor.final[0] == PACK:
            self._open[tensor.staging] -= 1
            if not self._open[tensor.staging]:
                staged = self._transfer.staged[tensor.staging]
                self._transfer.submit(self._transfer.work, staged.finish)

    def _worth_another_try(self, number: int, error: ModpkgError) -> bool:
        """Say whether the bytes may come right: they are old ones, or from a mirror."""
        tensor = self._todo[number]
        remote = self._remotes[id(tensor.registry), tensor.entry.pack]
        why = f"what it has of {tensor.what} is not what the release names ({error.code})"
        mirrors = [tensor.registry.disable_mirror(address, why) for address in remote.addresses]
        return number in self._resumed or any(mirrors)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
