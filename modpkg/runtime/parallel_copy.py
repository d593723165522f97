"""Elements read from files by several threads, and copied to tensors on a device.

Each thread fills a buffer by one read, copies from it into the tensors that it holds parts of, and
waits until that is done: while one waits, the others read. For a GPU buffers are pinned and each
thread has a stream. What is converted is converted on the device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modpkg.core import system
from modpkg.core.errors import PackError
from modpkg.core.regular_file import open_file

CHUNK = 8 << 20
"""Bytes of a buffer: enough for the full rate of a bus."""
_MOST_THREADS = 16
_FEWEST_THREADS = 4
"""Also on fewer cores, as a disk answers several at once."""
_ALIGNMENT = 64
_GAP = 64 << 10
"""Bytes between two tensors that are read along, rather than reading twice."""
_OTHER_DEVICES = threading.Lock()
"""Not every backend of torch may be called by several threads."""


class Piece(NamedTuple):
    """Elements that are copied in one go."""

    target: torch.Tensor
    """On the device, flat."""
    source: torch.Tensor
    """On the CPU, flat; perhaps of a mapping that nobody has read."""
    path: Path | None
    """The file that has the elements; None to take them from ``source``."""
    offset: int
    """In the file."""

    @property
    def length(self) -> int:
        """The bytes of the elements, before they are converted."""
        return self.source.numel() * self.source.element_size()


class _Job(NamedTuple):
    """What a thread reads at a time."""

    path: Path | None
    start: int
    """In the file."""
    pieces: list[tuple[int, Piece]]
    """With their position in the buffer."""

    @property
    def end(self) -> int:
        """The bytes of the buffer that are used."""
        position, piece = self.pieces[-1]
        return position + piece.length


def pieces_of(
    source: torch.Tensor, target: torch.Tensor, place: tuple[Path, int] | None
) -> Iterator[Piece]:
    """Yield a contiguous tensor in pieces that fit into a buffer.

    Args:
        source: The tensor on the CPU.
        target: One of its shape, and perhaps another dtype, on the device.
        place: The file and offset where its elements are read; None to copy those of ``source``.
    """
    flat, into = source.detach().reshape(-1), target.detach().reshape(-1)
    size = source.element_size()
    step = (CHUNK - _ALIGNMENT) // _ALIGNMENT * _ALIGNMENT // size
    path, offset = place or (None, 0)
    for start in range(0, flat.numel(), step):
        part = slice(start, start + step)
        yield Piece(into[part], flat[part], path, offset + start * size)


class ParallelCopy:
    """Copies pieces to one device; getting buffers for it begins when it is made.

    Args:
        device: The device.
        length: The most bytes that there will be.
    """

    def __init__(self, device: torch.device, length: int) -> None:
        self._device = device
        threads = min(_MOST_THREADS, max(_FEWEST_THREADS, system.available_cores()))
        self._workers = max(1, min(threads, -(-length // CHUNK)))
        self._pool = ThreadPoolExecutor(self._workers, "modpkg-load")
        self._pinned: Future[torch.Tensor] | None = None
        if device.type == "cuda":
            self._pinned = self._pool.submit(_buffers, self._workers, pinned=True)

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown(cancel_futures=True)

    def copy(self, pieces: Sequence[Piece]) -> None:
        """Read and copy; all of it is there on return.

        Raises:
            PackError: A file cannot be read, or is truncated.
        """
        if not pieces:
            return
        buffers = self._pinned.result() if self._pinned else _buffers(self._workers, pinned=False)
        ready = torch.cuda.current_stream(self._device).record_event() if self._pinned else None
        jobs, turn, failed = iter(_jobs(pieces)), threading.Lock(), threading.Event()

        def next_job() -> _Job | None:
            with turn:
                return None if failed.is_set() else next(jobs, None)

        def work(number: int) -> None:
            buffer = buffers[number * CHUNK : (number + 1) * CHUNK]
            try:
                with contextlib.ExitStack() as stack:
                    files: dict[Path, int] = {}
                    copy = _on_stream(stack, self._device, ready)
                    while (job := next_job()) is not None:
                        _read(job, buffer, files, stack)
                        copy(job, buffer)
            except BaseException:
                failed.set()
                raise

        for worker in [self._pool.submit(work, number) for number in range(self._workers)]:
            worker.result()


def _buffers(count: int, *, pinned: bool) -> torch.Tensor:
    return torch.empty(count * CHUNK, dtype=torch.uint8, device="cpu", pin_memory=pinned)


def _jobs(pieces: Sequence[Piece]) -> list[_Job]:
    """Return pieces by what is read at a time: those that lie side by side in one file."""
    jobs: list[_Job] = []
    for piece in sorted(pieces, key=lambda each: (str(each.path or ""), each.offset)):
        last = jobs[-1] if jobs else None
        if last is not None and last.path == piece.path:
            position = piece.offset - last.start
            if piece.path is None:
                position = -(-last.end // _ALIGNMENT) * _ALIGNMENT
            if position + piece.length <= CHUNK and position - last.end <= _GAP:
                last.pieces.append((position, piece))
                continue
        start = piece.offset // _ALIGNMENT * _ALIGNMENT
        jobs.append(_Job(piece.path, start, [(piece.offset - start, piece)]))
    return jobs


def _read(
    job: _Job, buffer: torch.Tensor, files: dict[Path, int], stack: contextlib.ExitStack
) -> None:
    """Fill a buffer with a job's bytes.

    Raises:
        PackError: A file cannot be read, or is truncated.
    """
    if job.path is None:
        for position, piece in job.pieces:
            buffer[position : position + piece.length].copy_(piece.source.view(torch.uint8))
        return
    try:
        if job.path not in files:
            files[job.path] = stack.enter_context(open_file(job.path)).fileno()
        done, view = 0, memoryview(buffer.numpy())[: job.end]  # type: ignore[arg-type]
        while done < job.end:
            count = system.read_at(files[job.path], view[done:], job.start + done)
            if not count:
                raise PackError("M201", path=job.path, reason="it is truncated")
            done += count
    except OSError as error:
        raise PackError("M201", path=job.path, reason=f"it cannot be read ({error})") from None


def _on_stream(
    stack: contextlib.ExitStack, device: torch.device, ready: Any
) -> Callable[[_Job, torch.Tensor], None]:
    """Return what copies a job's pieces to the device, and waits until the buffer may be reused.

    Args:
        stack: Leaves the thread's stream in the end.
        device: The device.
        ready: On a GPU, the event after which the memory of the targets is free.
    """
    stream = None
    if ready is not None:
        stack.enter_context(torch.cuda.device(device))
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stack.enter_context(torch.cuda.stream(stream))
        stream.wait_event(ready)

    def copy(job: _Job, buffer: torch.Tensor) -> None:
        for position, piece in job.pieces:
            chunk = buffer[position : position + piece.length]
            if piece.target.dtype == piece.source.dtype:
                piece.target.view(torch.uint8).copy_(chunk, non_blocking=stream is not None)
                continue
            values = chunk.view(piece.source.dtype)
            piece.target.copy_(values.to(device, non_blocking=stream is not None))
        if stream is not None:
            stream.synchronize()

    if stream is not None or device.type == "cpu":
        return copy

    def one_at_a_time(job: _Job, buffer: torch.Tensor) -> None:
        with _OTHER_DEVICES:
            copy(job, buffer)

    return one_at_a_time
