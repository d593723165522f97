"""The executor: tensor by tensor, in row blocks, over threads, straight into a pack.

Peak memory is a few blocks per thread, whatever the model's size: inputs are read by blocks, and
each of the result is written to its place in the new pack. A result is kept in the store under
the key of its inputs, and its record is written last: a killed composition leaves nothing that is
trusted. What needs no computing, or is in the store, imports neither numpy nor torch.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.compose.composition import NOTHING, Composition
from modpkg.compose.memory import default_threads
from modpkg.compose.operators import find_operator
from modpkg.compose.passthrough_checks import check_brought
from modpkg.compose.plan import COMPOSE_ENGINE
from modpkg.compose.reducers import find_reducer
from modpkg.core.filenames import COMPOSED_RECORD, COMPOSED_WEIGHTS
from modpkg.core.files import disk_errors, reserve, sync_folder, temporary_sibling, write_atomically
from modpkg.core.installed import Prompt, TensorRef
from modpkg.core.interface import weights_digest
from modpkg.core.packs import PackTensor, pack_header
from modpkg.core.records import DigestText
from modpkg.core.sealed import seal, unseal


class ComposedRecord(Struct, frozen=True):
    """``composed.json``, sealed: digests of what a composition computed, and its pack's length."""

    engine: str
    key: DigestText
    length: int
    digests: dict[str, DigestText]


class ComposedModel(Struct, frozen=True, kw_only=True):
    """A composed model: where each of its tensors lies, and its files."""

    key: str
    """Digest of what went in."""
    result: str
    """Digest of what came out: of the canonical JSON of {tensor: [dtype, shape, digest]}."""
    tensors: dict[str, TensorRef]
    """``file`` is absolute."""
    config: dict[str, Any]
    files: dict[str, Path]
    prompt: Prompt | None


def compose(
    composition: Composition,
    store: Path,
    *,
    threads: int | None = None,
    executor: concurrent.futures.Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ComposedModel:
    """Carry out a composition, or find its result in the store.

    Work is spread over ``executor``: any, as long as its workers see the same files; by default
    a pool of ``threads`` (one per core). Neither changes a byte of the result. ``progress`` is
    called with tensors done and tensors in all, in this thread. Where an operator is written with
    torch, torch uses one thread per operation in this process while it runs.

    Raises:
        ComposeError: the result has NaN or infinity. ComposeError, PackError, InstallError.
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
                file=str(folder / COMPOSED_WEIGHTS),
                offset=place.offset,
                length=place.length,
                dtype=place.dtype,
                shape=list(place.shape),
                digest=record.digests[name],
            )
    return ComposedModel(
        key=composition.key,
        result=weights_digest(tensors),
        tensors=dict(sorted(tensors.items())),
        config=composition.config,
        files=composition.files,
        prompt=composition.prompt,
    )


def _record(folder: Path, composition: Composition) -> ComposedRecord | None:
    """Return the record of a result that is in the store, if it is whole."""
    try:
        record = unseal((folder / COMPOSED_RECORD).read_bytes(), ComposedRecord)
        whole = (folder / COMPOSED_WEIGHTS).stat().st_size == record.length
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

    header, places = pack_header(composition.types())
    length = max(place.offset + place.length for place in places.values())
    folder.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(folder / COMPOSED_WEIGHTS)
    try:
        with disk_errors(folder), open(staged, "xb") as file:
            file.write(header)
            file.flush()
            reserve(file.fileno(), length)
            with _own_threads(composition), _written_behind(file.fileno()):
                digests = _run(composition, places, staged, pool, progress)
                if composition.routers:
                    from modpkg.compose.router_rows import write_gates

                    digests |= write_gates(composition, places, staged)
            os.fsync(file.fileno())
        staged.chmod(0o444)
        staged.replace(folder / COMPOSED_WEIGHTS)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(folder)
    record = ComposedRecord(COMPOSE_ENGINE, composition.key, length, digests)
    write_atomically(folder / COMPOSED_RECORD, seal(record))
    return record


_EVERY = 0.2
"""Seconds between two requests to write to the disk what has been computed so far."""


@contextlib.contextmanager
def _written_behind(descriptor: int) -> Iterator[None]:
    """Have the system write a file to the disk while it grows: little is left to wait for."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(_EVERY):
            with contextlib.suppress(OSError):  # the last one, at the end, is the one that counts
                os.fsync(descriptor)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _own_threads(composition: Composition) -> Iterator[None]:
    """Keep what operators written with torch do to its threads from lasting."""
    terms = [term for made in composition.computed.values() for term in made.terms]
    ops = {term.op for term in terms} - {NOTHING}
    if all(find_operator(op, composition.name).arrays for op in ops):
        yield
        return
    from modpkg.compose.torch_threads import threads_restored

    with threads_restored():
        yield


def _run(
    composition: Composition,
    places: Mapping[str, PackTensor],
    staged: Path,
    pool: concurrent.futures.Executor,
    progress: Callable[[int, int], None] | None,
) -> dict[str, DigestText]:
    """Make all tensors, the largest first, and return their digests."""
    from modpkg.compose.tensor import Job, make_tensor

    order = sorted(composition.computed, key=lambda name: (-places[name].length, name))
    measured = _measured(composition)
    futures = {}
    for name in order:
        job = Job(
            model=composition.name,
            name=name,
            computed=composition.computed[name],
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
    made = [(name, item) for name, item in composition.computed.items() if item.terms]
    if not made:
        return None
    reducer = find_reducer(made[0][1].reducer, composition.name)
    if reducer.measure is None or not reducer.across:
        return None
    import numpy as np

    from modpkg.compose.blocks import ModelBlocks

    with np.errstate(all="ignore"):  # NaN and infinity are looked for in the result
        return reducer.measure(ModelBlocks(composition.name, made))
