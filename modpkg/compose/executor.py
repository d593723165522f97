"""The executor: computes a composition tensor by tensor, in row blocks, into packs.

Peak memory is a few blocks per thread or process, whatever the model's size: inputs are read in
blocks, and each block of the result is written to its offset in a new pack. A result is stored
under the key of its inputs, and its record is written last, so a killed composition leaves nothing
that is trusted. A composition that computes nothing, or is in the store, imports neither numpy nor
torch.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from modpkg.compose.checks import check_kept
from modpkg.compose.composition import Composition
from modpkg.compose.crew import Crew
from modpkg.compose.device import torch_device
from modpkg.compose.memory import needs_torch, process_count
from modpkg.compose.nested import (
    copy_of,
    files_of,
    is_measured_across,
    reached,
    with_results,
)
from modpkg.compose.plan import COMPOSE_ENGINE
from modpkg.compose.reducers import find_reducer
from modpkg.compose.result_packs import ResultPack, result_packs
from modpkg.compose.workers import Workers
from modpkg.core import system
from modpkg.core.all_cores import on_all_cores
from modpkg.core.filenames import COMPOSED_RECORD, COMPOSED_WEIGHTS, composed_weights
from modpkg.core.files import disk_errors, write_atomically
from modpkg.core.installed import Prompt, TensorRef
from modpkg.core.interface import weights_digest
from modpkg.core.lazy_numpy import np
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.packs import COMPOSED_PACKS, PackTensor
from modpkg.core.records import DigestText
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal, unseal
from modpkg.core.verified import VerifiedFiles


class ComposedRecord(Struct, frozen=True):
    """``composed.json``, sealed: digests of the computed tensors, and what their packs are."""

    engine: str
    key: DigestText
    length: int
    """Bytes of all packs."""
    digests: dict[str, DigestText]
    packs: int = 1


class ComposedModel(Struct, frozen=True, kw_only=True):
    """A composed model: the location of each tensor, and its files."""

    key: str
    """Digest of the inputs."""
    result: str
    """Digest of the weights: of the canonical JSON of {tensor: [dtype, shape, digest]}."""
    tensors: dict[str, TensorRef]
    """With absolute paths."""
    config: dict[str, Any]
    files: dict[str, Path]
    documents: dict[str, dict[str, Any]]
    prompt: Prompt | None


def compose(
    composition: Composition,
    store: Path,
    *,
    threads: int | None = None,
    executor: concurrent.futures.Executor | None = None,
    workers: Workers | None = None,
    progress: Callable[[int, int], None] | None = None,
    verified: VerifiedFiles | None = None,
    device: str | None = None,
) -> ComposedModel:
    """Compute a composition, or return its result from the store.

    Args:
        composition: What to compute, from `modpkg.compose.plan.plan`.
        store: The store's root.
        threads: How many threads compute; one per core if None. Large work is done by as many
            processes, see `modpkg.compose.memory.process_count`.
        executor: Runs the work instead of these. Its workers must see the same files.
        workers: These processes, where several compositions follow one another; otherwise they
            are started for this one.
        progress: Called in this thread with the tensors done and the total.
        verified: Packs that this process has just verified; inputs in others are hashed while they
            are read. Ignored with ``executor``, whose workers read the files for themselves.
        device: What computes: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, see
            `modpkg.compose.device`. Ignored with ``executor``.

    None of these changes a byte of the result. While operators written with torch run, torch uses
    one thread per operation in this process.

    Raises:
        ComposeError: The result has NaN or infinity, the method rejects the values, the device
            cannot be used, or a process ended.
        IntegrityError: An input does not match its digest.
        PackError: An input cannot be read.
        InstallError: The disk is full or cannot be written.
    """
    tensors = dict(composition.kept)
    check_kept(composition)
    if composition.types() or composition.expected:
        folder = composition.folder(store.absolute())
        record = _record(folder, composition)
        if record is None:
            composition = with_results(
                composition,
                lambda part: _stored(part, store.absolute()),
                lambda part: compose(part, store, threads=threads, verified=verified).tensors,
            )
            chosen = torch_device(device, composition) if executor is None else ""
            trusted = _trusted(composition, verified if executor is None else None)
            with _crew(composition, threads, executor, workers, chosen) as crew:
                record = _compute(composition, folder, crew, progress, trusted, chosen)
        tensors |= _places(composition, folder, record)
    return ComposedModel(
        key=composition.key,
        result=weights_digest(tensors),
        tensors=dict(sorted(tensors.items())),
        config=composition.config,
        files=composition.files,
        documents=composition.documents,
        prompt=composition.prompt,
    )


def _stored(composition: Composition, store: Path) -> dict[str, TensorRef] | None:
    """Return the tensors of a composition whose result is in the store; None if it is not."""
    if not composition.types():
        return dict(composition.kept)
    folder = composition.folder(store)
    record = _record(folder, composition)
    if record is None:
        return None
    return {**composition.kept, **_places(composition, folder, record)}


def _places(composition: Composition, folder: Path, record: ComposedRecord) -> dict[str, TensorRef]:
    """Return the tensors in the packs of a result."""
    return {
        name: TensorRef(
            file=str(folder / pack.filename),
            offset=place.offset,
            length=place.length,
            dtype=place.dtype,
            shape=list(place.shape),
            digest=record.digests[name],
        )
        for pack in result_packs(composition.types(), record.packs)
        for name, place in pack.places.items()
    }


@contextlib.contextmanager
def _crew(
    composition: Composition,
    threads: int | None,
    executor: concurrent.futures.Executor | None,
    workers: Workers | None,
    device: str,
) -> Iterator[Crew]:
    """Yield those who compute a composition."""
    if executor is not None:
        yield Crew(executor)
        return
    count = threads or system.available_cores()
    processes = 0 if device else process_count(composition, count)
    with contextlib.ExitStack() as stack:
        if processes:
            workers = workers or stack.enter_context(Workers())
            processes *= workers.start(processes)
        pool = concurrent.futures.ThreadPoolExecutor(processes or count)
        stack.callback(pool.shutdown, cancel_futures=True)
        yield Crew(pool, count, workers if processes else None)


def _trusted(composition: Composition, verified: VerifiedFiles | None) -> frozenset[str]:
    """Return the files of the composition's inputs that need no hashing."""
    if verified is None:
        return frozenset()
    computed = [*composition.computed.values()]
    computed += [each.computed for each in composition.inner.values() if each.computed is not None]
    files = {file for item in computed for file in files_of(item)}
    return frozenset(file for file in files if file in verified)


def _record(folder: Path, composition: Composition) -> ComposedRecord | None:
    """Return the record of a complete result in the store, or None."""
    try:
        record = unseal(read_file(folder / COMPOSED_RECORD), ComposedRecord)
        if not 0 < record.packs <= COMPOSED_PACKS:
            return None
        count = record.packs
        files = [folder / composed_weights(number, count) for number in range(count)]
        complete = sum(file.stat().st_size for file in files) == record.length
    except (OSError, msgspec.MsgspecError):
        return None
    valid = record.key == composition.key and record.digests.keys() == composition.types().keys()
    return record if complete and valid else None


def _compute(
    composition: Composition,
    folder: Path,
    crew: Crew,
    progress: Callable[[int, int], None] | None,
    trusted: frozenset[str],
    device: str,
) -> ComposedRecord:
    """Write the packs, then their record, and return the record."""
    packs = result_packs(composition.types())
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    staged = [temporary_sibling(folder / pack.filename) for pack in packs]
    try:
        with disk_errors(folder, folder / COMPOSED_WEIGHTS), contextlib.ExitStack() as opened:
            files = [opened.enter_context(open(path, "xb", buffering=0)) for path in staged]
            pairs = [*zip(packs, files, strict=True)]
            on_all_cores(lambda pair: _begin(*pair), pairs, lambda pair: pair[0].length)
            places = {
                name: (str(path), place)
                for pack, path in zip(packs, staged, strict=True)
                for name, place in pack.places.items()
            }
            from modpkg.core.system_blas import one_blas_thread

            with _torch_threads(composition, device), one_blas_thread():
                digests = _run(composition, folder, places, crew, progress, trusted, device)
                if composition.routers:
                    from modpkg.compose.router_rows import write_routers

                    digests |= write_routers(composition, places)
            flush = [(pack.length, file.fileno()) for pack, file in pairs]
            on_all_cores(lambda each: os.fsync(each[1]), flush, lambda each: each[0])
        for pack, path in zip(packs, staged, strict=True):
            system.set_mode(path, 0o444)
            system.replace(path, folder / pack.filename)
    finally:
        for path in staged:
            discard(path)
    system.sync_folder(folder)
    length = sum(pack.length for pack in packs)
    record = ComposedRecord(COMPOSE_ENGINE, composition.key, length, digests, len(packs))
    write_atomically(folder / COMPOSED_RECORD, seal(record))
    return record


def _begin(pack: ResultPack, file: FileIO) -> None:
    """Write a pack's header, and allocate its space."""
    system.write_at(file.fileno(), pack.header, 0)
    system.reserve(file.fileno(), pack.length)


@contextlib.contextmanager
def _torch_threads(composition: Composition, device: str) -> Iterator[None]:
    """Restore torch's thread count on exit, if torch is used."""
    if not device and not needs_torch(composition):
        yield
        return
    from modpkg.compose.torch_threads import threads_restored

    with threads_restored():
        yield


def _run(
    composition: Composition,
    folder: Path,
    places: Mapping[str, tuple[str, PackTensor]],
    crew: Crew,
    progress: Callable[[int, int], None] | None,
    trusted: frozenset[str],
    device: str,
) -> dict[str, DigestText]:
    """Compute all tensors, largest first, into the files and places, and return their digests."""
    from modpkg.compose.tensor import Job

    order = sorted(composition.computed, key=lambda name: (-places[name][1].length, name))
    composition = _with_inner_measures(composition, folder, {})
    inner = dict(composition.inner)
    for file, expected in composition.expected.items():
        inner[file] = structs.replace(inner[file], expected=expected)
    composition = structs.replace(composition, inner=inner)
    _check_unused(composition, folder)
    measured = _measure(composition, folder)
    jobs = []
    for name in order:
        computed = composition.computed[name]
        inner = reached(files_of(computed), composition.inner)
        refs = computed.inputs()
        for item in inner.values():
            refs += [] if item.computed is None else item.computed.inputs()
        jobs.append(
            Job(
                model=composition.name,
                name=name,
                computed=computed,
                file=places[name][0],
                place=places[name][1],
                measured=measured,
                trusted=trusted.intersection(ref.file for ref in refs),
                device=device,
                inner=inner,
            )
        )
    digests: dict[str, DigestText] = {}
    with contextlib.closing(crew.make(jobs)) as making:  # at an error here everybody stops
        for made in making:
            digests |= made
            if progress is not None:
                for done in range(len(digests) - len(made), len(digests)):
                    progress(done + 1, len(jobs))
    return digests


def _check_unused(composition: Composition, folder: Path) -> None:
    """Check the tensors that patches were made for, and that nothing is computed from.

    Raises:
        PatchError: A patch was made for other values.
    """
    used = [file for item in composition.computed.values() for file in files_of(item)]
    for file in composition.expected.keys() - reached(used, composition.inner).keys():
        from modpkg.compose.tensor import Job
        from modpkg.compose.unfolding import unfolded

        item = composition.inner[file]
        job = Job(
            model=item.model,
            name=item.name,
            computed=copy_of(file, item),
            file="",
            place=PackTensor("U8", (0,), 0, 0),
            inner=composition.inner,
        )
        with unfolded(job, folder):
            pass


def _measure(composition: Composition, folder: Path) -> Any:
    """Return what the method measures over the whole model; None if it measures nothing there.

    Inputs that are not stored are computed into ``folder`` for it.
    """
    computed = [pair for pair in composition.computed.items() if is_measured_across(pair[1])]
    if not computed:
        return None
    reducer = find_reducer(computed[0][1].reducer, composition.name)
    if reducer.measure is None:
        return None
    from modpkg.compose.model_blocks import ModelBlocks

    blocks = ModelBlocks(composition.name, computed, composition.inner, folder)
    with np.errstate(all="ignore"):  # the result is checked for NaN and infinity
        return reducer.measure(blocks)


def _with_inner_measures(
    composition: Composition, folder: Path, measures: dict[str, Any]
) -> Composition:
    """Return a composition whose inner tensors have what their methods measure.

    ``measures`` has what was measured already, by the keys of compositions, and gets the others.
    """
    inner = dict(composition.inner)
    for file, item in composition.inner.items():
        if item.computed is None or not is_measured_across(item.computed):
            continue
        key = item.composition
        if key not in measures:
            part = _with_inner_measures(composition.parts[key], folder, measures)
            measures[key] = _measure(part, folder)
        inner[file] = structs.replace(item, measured=measures[key])
    return structs.replace(composition, inner=inner)
