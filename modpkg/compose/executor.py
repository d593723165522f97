"""The executor: tensor by tensor, in row blocks, over threads, straight into a pack.

Peak memory is a few blocks per thread, whatever the model's size: inputs are mapped, and each
block is written to its place in the new pack. A result is kept in the store under the key of
its inputs, and its record is written last: a killed composition leaves nothing that is trusted.
What needs no computing, or is in the store, imports no torch.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.compose.brought import check_brought
from modpkg.compose.composition import RESULT, Composition
from modpkg.compose.memory import default_threads
from modpkg.compose.plan import COMPOSE_ENGINE
from modpkg.compose.reducers import find_reducer
from modpkg.files import disk_errors, reserve, sync_folder, temporary_sibling, write_atomically
from modpkg.installed import TensorRef
from modpkg.interface import weights_digest
from modpkg.packs import PackTensor, pack_header
from modpkg.records import DigestText
from modpkg.sealed import seal, unseal

WEIGHTS = "weights.safetensors"


class ComposedRecord(Struct, frozen=True):
    """``composed.json``, sealed: digests of what a composition computed, and its pack's length."""

    engine: str
    key: DigestText
    length: int
    digests: dict[str, DigestText]


class Composed(Struct, frozen=True, kw_only=True):
    """A composed model: where each of its tensors lies, and its files."""

    key: str
    """Digest of what went in."""
    result: str
    """Digest of what came out: of the canonical JSON of {tensor: [dtype, shape, digest]}."""
    tensors: dict[str, TensorRef]
    """``file`` is absolute."""
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

    Work is spread over ``executor``: any, as long as its workers see the same files; by default
    a pool of ``threads`` (one per core). Neither changes a byte of the result. ``progress`` is
    called with tensors done and tensors in all, in this thread. While it runs, torch uses one
    thread per operation in this process.

    Raises:
        NotFinite: the result has NaN or infinity. ComposeError, PackError, DiskFull.
    """
    tensors = dict(composition.kept)
    check_brought(composition)
    if types := composition.types():
        folder = composition.folder(store.absolute())
        record = _record(folder, composition)
        if record is None:
            pool = executor or concurrent.futures.ThreadPoolExecutor(threads or default_threads())
            try:
                record = _compute(composition, folder, pool, progress)
            finally:
                if executor is None:
                    pool.shutdown(cancel_futures=True)
        _, places = pack_header(types)
        for name, place in places.items():
            tensors[name] = TensorRef(
                file=str(folder / WEIGHTS),
                offset=place.offset,
                length=place.length,
                dtype=place.dtype,
                shape=list(place.shape),
                digest=record.digests[name],
            )
    return Composed(
        key=composition.key,
        result=weights_digest(tensors),
        tensors=dict(sorted(tensors.items())),
        config=composition.config,
        files=composition.files,
    )


def _record(folder: Path, composition: Composition) -> ComposedRecord | None:
    """Return the record of a result that is in the store, if it is whole."""
    try:
        record = unseal((folder / RESULT).read_bytes(), ComposedRecord)
        whole = (folder / WEIGHTS).stat().st_size == record.length
    except (OSError, msgspec.MsgspecError):
        return None
    sound = record.key == composition.key and record.digests.keys() == composition.types().keys()
    return record if whole and sound else None


def _compute(
    composition: Composition,
    folder: Path,
    pool: concurrent.futures.Executor,
    progress: Callable[[int, int], None] | None,
) -> ComposedRecord:
    """Write the pack, then its record."""
    import torch

    header, places = pack_header(composition.types())
    length = max(place.offset + place.length for place in places.values())
    folder.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(folder / WEIGHTS)
    inner = torch.get_num_threads()
    try:
        with disk_errors(folder), open(staged, "xb") as file:
            file.write(header)
            file.flush()
            reserve(file.fileno(), length)
            digests = _run(composition, places, staged, pool, progress)
            if composition.gates:
                from modpkg.compose.gates import write_gates

                digests |= write_gates(composition, places, staged)
            os.fsync(file.fileno())
        staged.chmod(0o444)
        staged.replace(folder / WEIGHTS)
    finally:
        torch.set_num_threads(inner)  # the jobs set it to one: blocks are the parallel work
        staged.unlink(missing_ok=True)
    sync_folder(folder)
    record = ComposedRecord(COMPOSE_ENGINE, composition.key, length, digests)
    write_atomically(folder / RESULT, seal(record))
    return record


def _run(
    composition: Composition,
    places: Mapping[str, PackTensor],
    staged: Path,
    pool: concurrent.futures.Executor,
    progress: Callable[[int, int], None] | None,
) -> dict[str, DigestText]:
    """Make all tensors, the largest first, and return their digests."""
    from modpkg.compose.tensor import Job, make_tensor

    order = sorted(composition.made, key=lambda name: (-places[name].length, name))
    measured = _measured(composition)
    futures = {}
    for name in order:
        job = Job(
            model=composition.name,
            name=name,
            made=composition.made[name],
            file=str(staged),
            place=places[name],
            measured=measured,
        )
        futures[pool.submit(make_tensor, job)] = name
    digests: dict[str, DigestText] = {}
    try:
        for future in concurrent.futures.as_completed(futures):
            digests[futures[future]] = future.result()
            if progress is not None:
                progress(len(digests), len(futures))
    except BaseException:
        for future in futures:
            future.cancel()
        concurrent.futures.wait(futures)
        raise
    return digests


def _measured(composition: Composition) -> Any:
    """Return what the method has to know of all tensors, if it has to."""
    made = [(name, item) for name, item in composition.made.items() if item.terms]
    if not made:
        return None
    reducer = find_reducer(made[0][1].reducer, composition.name)
    if reducer.measure is None or not reducer.across:
        return None
    from modpkg.compose.rows import ModelBlocks

    return reducer.measure(ModelBlocks(composition.name, made))
