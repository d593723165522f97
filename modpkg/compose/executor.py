"""The executor: tensor by tensor, in row blocks, over threads, straight into a pack.

Peak memory is a few blocks per thread, whatever the model's size: inputs are mapped, outputs
are written through a mapping of the new pack. A result is kept in the store under the key of
its inputs, and its record is written last: a killed composition leaves nothing that is trusted.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from modpkg.compose.mapping import TORCH_DTYPES, map_tensors
from modpkg.compose.operators import operator
from modpkg.compose.plan import COMPOSE_ENGINE, Composition, Work
from modpkg.compose.reducers import reducer
from modpkg.compose.rounding import round_into
from modpkg.digests import Digest
from modpkg.errors import ComposeError, NotFinite
from modpkg.files import disk_errors, sync_folder, temporary_sibling, write_atomically
from modpkg.installed import TensorRef
from modpkg.interface import weights_digest
from modpkg.packs import PackTensor, pack_header
from modpkg.records import DigestText, TensorEntry, canonical_json

BLOCK_ELEMENTS = 1 << 17
"""Elements of a row block: a float64 block is 1 MiB and stays in a core's cache."""

WEIGHTS = "weights.safetensors"
RECORD = "composed.json"


class ComposedRecord(Struct, frozen=True):
    """``composed.json``: digests of what a composition computed, and its pack's length."""

    engine: str
    key: DigestText
    length: int
    digests: dict[str, DigestText]


class Composed(Struct, frozen=True, kw_only=True):
    """A composed model: where each of its tensors lies, and its files."""

    key: Digest
    result: Digest
    tensors: dict[str, TensorRef]
    config: dict[str, Any]
    files: dict[str, Path]


def compose(
    composition: Composition,
    store: Path,
    *,
    threads: int | None = None,
    executor: concurrent.futures.Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Composed:
    """Carry out a composition, or find its result in the store.

    ``executor`` is any that shares this process's memory; by default a pool of ``threads`` (one
    per core). ``progress`` is called with tensors done and tensors in all.

    Raises:
        NotFinite: the result has NaN or infinity. ComposeError, PackError, DiskFull.
    """
    tensors = dict(composition.kept)
    if composition.work:
        folder = composition.folder(store)
        record = _record(folder, composition)
        if record is None:
            record = _compute(composition, folder, threads, executor, progress)
        _, places = pack_header(_types(composition))
        for name, place in places.items():
            tensors[name] = _ref(folder / WEIGHTS, place, record.digests[name])
    entries = {
        name: TensorEntry(ref.dtype, ref.shape, ref.digest, ref.digest, 0, 0)
        for name, ref in tensors.items()
    }
    return Composed(
        key=composition.key,
        result=weights_digest(entries),
        tensors=dict(sorted(tensors.items())),
        config=composition.config,
        files=composition.files,
    )


def _types(composition: Composition) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (work.dtype, tuple(work.base.shape)) for name, work in composition.work.items()}


def _ref(file: Path, place: PackTensor, digest: str) -> TensorRef:
    return TensorRef(
        file=str(file),
        offset=place.offset,
        length=place.length,
        dtype=place.dtype,
        shape=list(place.shape),
        digest=digest,
    )


def _record(folder: Path, composition: Composition) -> ComposedRecord | None:
    """Return the record of a result that is in the store, if it is whole."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=ComposedRecord)
        whole = (folder / WEIGHTS).stat().st_size == record.length
    except (OSError, msgspec.MsgspecError):
        return None
    sound = record.key == composition.key and record.digests.keys() == composition.work.keys()
    return record if whole and sound else None


def _compute(
    composition: Composition,
    folder: Path,
    threads: int | None,
    executor: concurrent.futures.Executor | None,
    progress: Callable[[int, int], None] | None,
) -> ComposedRecord:
    header, places = pack_header(_types(composition))
    length = max((place.offset + place.length for place in places.values()), default=len(header))
    folder.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(folder / WEIGHTS)
    count = threads or os.cpu_count() or 1
    inner = torch.get_num_threads()
    try:
        with disk_errors(folder), open(staged, "x+b") as file:
            os.posix_fallocate(
                file.fileno(), 0, length
            )  # a full disk is said here, not by a signal
            with mmap.mmap(file.fileno(), length) as target:
                target[: len(header)] = header
                torch.set_num_threads(1)  # the blocks are the parallel work
                pool = executor or concurrent.futures.ThreadPoolExecutor(count)
                try:
                    digests = _run(composition, places, target, pool, progress)
                finally:
                    if executor is None:
                        pool.shutdown(cancel_futures=True)
            os.fsync(file.fileno())
        staged.chmod(0o444)
        staged.replace(folder / WEIGHTS)
    finally:
        torch.set_num_threads(inner)
        staged.unlink(missing_ok=True)
    sync_folder(folder)
    record = ComposedRecord(COMPOSE_ENGINE, composition.key, length, digests)
    write_atomically(folder / RECORD, canonical_json(record))
    return record


def _run(
    composition: Composition,
    places: Mapping[str, PackTensor],
    target: mmap.mmap,
    pool: concurrent.futures.Executor,
    progress: Callable[[int, int], None] | None,
) -> dict[str, DigestText]:
    """Compute all tensors, the largest first, and return their digests."""
    inputs: dict[str, TensorRef] = {}
    for work in composition.work.values():
        for ref in (work.base, *(ref for c in work.contributions for ref in c.parts.values())):
            inputs[f"{ref.file}:{ref.offset}"] = ref
    mapped = map_tensors(inputs.items())
    memory = memoryview(target)

    def one(name: str) -> str:
        place = places[name]
        with memory[place.offset : place.offset + place.length] as window:
            if place.length:
                out = torch.frombuffer(window, dtype=TORCH_DTYPES[place.dtype])
                _compute_tensor(composition, name, out, mapped)
                del out
            return "sha256:" + hashlib.sha256(window).hexdigest()

    order = sorted(composition.work, key=lambda name: -places[name].length)
    jobs = {pool.submit(one, name): name for name in order}
    digests: dict[str, DigestText] = {}
    try:
        for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            digests[jobs[job]] = job.result()
            if progress is not None:
                progress(number, len(jobs))
    except BaseException:
        for job in jobs:
            job.cancel()
        concurrent.futures.wait(jobs)
        raise
    finally:
        memory.release()
    return digests


def _compute_tensor(
    composition: Composition, name: str, out: torch.Tensor, mapped: Mapping[str, torch.Tensor]
) -> None:
    """Fill ``out`` (flat) block of rows by block of rows; each element is rounded once."""
    work = composition.work[name]
    base = _matrix(mapped[f"{work.base.file}:{work.base.offset}"])
    rows, columns = base.shape
    result = out.view(rows, columns)
    reduce = reducer(composition.reducer, composition.name)
    parts = [
        (
            operator(part.op, composition.name).delta,
            part,
            {role: mapped[f"{ref.file}:{ref.offset}"] for role, ref in part.parts.items()},
        )
        for part in work.contributions
    ]
    step = max(1, BLOCK_ELEMENTS // max(1, columns))
    for first in range(0, rows, step):
        block = slice(first, min(first + step, rows))
        deltas = []
        for delta, part, tensors in parts:
            if delta is None:
                raise ComposeError(model=composition.name, reason=f"{part.op} has no delta")
            deltas.append(delta(part, tensors, block).view(-1, columns))
        values = reduce(base[block].double(), deltas)
        round_into(result[block], values)
        if not bool(torch.isfinite(result[block]).all()) and _made_here(work, base[block]):
            raise NotFinite(model=composition.name, tensor=name)


def _made_here(work: Work, base: torch.Tensor) -> bool:
    """Say whether NaN or infinity came from composing, not from a base that had it."""
    return bool(work.contributions) or bool(torch.isfinite(base).all())


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with its first extent as rows and all others as columns."""
    if tensor.ndim == 0:
        return tensor.view(1, 1)
    return tensor.view(tensor.shape[0], -1) if tensor.numel() else tensor.view(0, 1)
