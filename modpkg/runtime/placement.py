"""A model's tensors put on a device: read by several threads into pinned buffers, and copied.

The model is built with tensors that are mapped and not yet read. What is to be on a device is read
from the packs straight into a few pinned buffers, by chunks, and copied from there into the
parameter, which is converted on the device. So the CPU never holds the model.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modpkg.core import system
from modpkg.core.errors import PackError, RunError
from modpkg.core.files import human_bytes
from modpkg.core.installed import TensorRef
from modpkg.core.regular_file import open_file
from modpkg.runtime.shared_parameters import ParameterKey, SharedParameters

CHUNK = 8 << 20
"""Bytes that one thread reads before it copies them: enough for the full rate of a bus."""
_THREADS = 16
_ALIGNMENT = 64
_GAP = 64 << 10
"""Bytes between two tensors that are read along, rather than reading twice."""


def renew_flat_weights(model: torch.nn.Module) -> None:
    """Have torch's recurrent modules look at their parameters again, of which they keep a list."""
    for module in model.modules():
        if isinstance(module, torch.nn.RNNBase):
            module._init_flat_weights()


def device_of(device: torch.device | str | int) -> torch.device:
    """Return a device that can be used here.

    Raises:
        RunError: It cannot.
    """
    try:
        found = torch.device(device)
        return torch.empty(0, device=found).device
    except (AssertionError, RuntimeError, TypeError, ImportError, NotImplementedError) as error:
        raise _unusable(device, error) from None


def _unusable(device: Any, error: Exception) -> RunError:
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return RunError("M709", choice=f"device {str(device)!r}", reason=reason)


class StoredTensors:
    """Where the bytes of mapped tensors lie in packs, by their address in memory."""

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], refs: Mapping[str, TensorRef], packs: Path
    ) -> None:
        """Note where tensors lie; ``tensors`` are the views of ``map_tensors`` on ``refs``."""
        found = sorted(
            (tensor.data_ptr(), packs / refs[name].file, refs[name])
            for name, tensor in tensors.items()
            # what is not aligned was copied when it was mapped, and is read from that copy
            if tensor.numel() and refs[name].offset % tensor.element_size() == 0
        )
        self._starts = [address for address, _, _ in found]
        self._places = [(path, ref) for _, path, ref in found]

    @property
    def length(self) -> int:
        """The bytes of all of them."""
        return sum(ref.length for _, ref in self._places)

    def find(self, tensor: torch.Tensor) -> tuple[Path, int, str | None] | None:
        """Return a contiguous tensor's file and offset, and its digest if it is a whole one."""
        index = bisect_right(self._starts, tensor.data_ptr()) - 1
        if index < 0:
            return None
        path, ref = self._places[index]
        inside = tensor.data_ptr() - self._starts[index]
        length = tensor.numel() * tensor.element_size()
        if inside + length > ref.length:
            return None
        return path, ref.offset + inside, ref.digest if length == ref.length else None


class _Piece(NamedTuple):
    """Elements that are copied in one go."""

    target: torch.Tensor
    """On the device, flat."""
    source: torch.Tensor
    """On the CPU, flat; perhaps a mapping that nobody has read."""
    offset: int
    """In the file."""

    @property
    def length(self) -> int:
        return self.source.numel() * self.source.element_size()


class _Job(NamedTuple):
    """What one thread reads at a time."""

    path: Path | None
    """None: copied from memory."""
    start: int
    """In the file."""
    pieces: list[tuple[int, _Piece]]
    """With their position in the buffer."""

    @property
    def end(self) -> int:
        """The bytes of the buffer that are used."""
        position, piece = self.pieces[-1]
        return position + piece.length


class Placement:
    """Puts a model on one device; what takes time there begins when it is made.

    Args:
        name: The model's name, for errors.
        device: The device, from `device_of`.
        stored: Where its tensors lie.
        shared: Whether parameters are shared with other models; see `SharedParameters`.
        copied: Whether tensors that are on the device already are copied.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        stored: StoredTensors,
        *,
        shared: SharedParameters | None = None,
        copied: bool = False,
    ) -> None:
        self._name, self._device, self._stored = name, device, stored
        self._shared, self._copied = shared, copied
        self.dtypes: dict[int, torch.dtype] = {}
        """By address of a tensor, the dtype that it is converted to."""
        self._pool = ThreadPoolExecutor(_THREADS, "modpkg-load")
        self._workers = max(1, min(_THREADS, -(-stored.length // CHUNK)))
        pinned = device.type == "cuda"
        self._buffers: Future[torch.Tensor] | None = None
        if pinned:  # takes a while, so it is done while the model is built
            self._buffers = self._pool.submit(_memory, self._workers, pinned)

    def __enter__(self) -> Placement:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def convert(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Note that a mapped tensor is to be converted, on the device; return it as it is."""
        if not tensor.numel():
            return tensor.to(dtype)
        self.dtypes[tensor.data_ptr()] = dtype
        return tensor

    def read_from_memory(self) -> None:
        """Forget where tensors lie and what they are converted to: something has changed them."""
        self._stored = StoredTensors({}, {}, Path())
        self.dtypes.clear()

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Put a model's parameters and buffers on the device.

        Raises:
            RunError: The device has too little memory, or fails.
            PackError: A pack cannot be read.
        """
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._place(model)
        except torch.cuda.OutOfMemoryError:
            raise self._too_large(model) from None
        except (AssertionError, RuntimeError, NotImplementedError) as error:
            raise _unusable(self._device, error) from None
        return model

    def _place(self, model: torch.nn.Module) -> None:
        tables = [
            table for module in model.modules() for table in (module._parameters, module._buffers)
        ]
        held = {
            id(value): value for table in tables for value in table.values() if value is not None
        }
        if any(type(each) not in _PLAIN for each in held.values()):
            model.to(self._device)  # the quantised tensors of a package, which moves them itself
            return
        self._reserve(held.values())
        pieces: list[_Piece] = []
        made: dict[ParameterKey, torch.Tensor] = {}
        moved = {key: self._target(value, pieces, made) for key, value in held.items()}
        for table in tables:
            for key, value in table.items():
                if value is not None:
                    table[key] = moved[id(value)]  # type: ignore[assignment]
        renew_flat_weights(model)
        if self._device.type != "meta":
            self._copy(_jobs(pieces, self._stored))
        if self._shared is not None:
            owners: dict[int, list[torch.nn.Parameter]] = {}
            for value in moved.values():
                if isinstance(value, torch.nn.Parameter):
                    owners.setdefault(value.data_ptr(), []).append(value)
            for content, tensor in made.items():
                self._shared.add(content, owners[tensor.data_ptr()])

    def _reserve(self, held: Any) -> None:
        """Have the allocator fetch the memory at once, which is faster than tensor by tensor."""
        if self._device.type == "cuda":
            length = sum(_rounded(each.numel() * self._wanted(each).itemsize) for each in held)
            with contextlib.suppress(torch.cuda.OutOfMemoryError):  # it may have it in parts
                torch.empty(length, dtype=torch.uint8, device=self._device)

    def _wanted(self, tensor: torch.Tensor) -> torch.dtype:
        return self.dtypes.get(tensor.data_ptr(), tensor.dtype) if tensor.numel() else tensor.dtype

    def _target(
        self, tensor: torch.Tensor, pieces: list[_Piece], made: dict[ParameterKey, torch.Tensor]
    ) -> torch.Tensor:
        """Return a tensor on the device whose elements ``pieces`` then say."""
        dtype = self._wanted(tensor)
        is_there = tensor.device == self._device and tensor.dtype == dtype and not self._copied
        content = None
        if is_there:
            value = tensor.detach()
        elif not tensor.numel() or not tensor.is_contiguous() or tensor.device.type != "cpu":
            value = tensor.detach().to(self._device, dtype)
        else:
            content = self._content(tensor, dtype)
            found = None if content is None else made.get(content)
            if found is None and content is not None and self._shared is not None:
                found = self._shared.find(content)
            if found is not None:
                value = found
            else:
                value = torch.empty(tensor.shape, dtype=dtype, device=self._device)
                pieces += _pieces(tensor.detach().reshape(-1), value.reshape(-1), self._stored)
            if content is not None:
                made[content] = value
        if not isinstance(tensor, torch.nn.Parameter):
            return value
        learns = tensor.requires_grad and self._shared is None
        if is_there and learns == tensor.requires_grad:
            return tensor
        parameter = torch.nn.Parameter(value, requires_grad=learns)
        parameter.__dict__.update(tensor.__dict__)
        return parameter

    def _content(self, tensor: torch.Tensor, dtype: torch.dtype) -> ParameterKey | None:
        """Return what a parameter is shared by; None if it is not."""
        if self._shared is None or not isinstance(tensor, torch.nn.Parameter):
            return None
        place = self._stored.find(tensor)
        if place is None or place[2] is None:
            return None
        return ParameterKey(place[2], tensor.dtype, tuple(tensor.shape), dtype, self._device)

    # Copying ------------------------------------------------------------------------------

    def _copy(self, jobs: Sequence[_Job]) -> None:
        """Read and copy, by several threads."""
        if not jobs:
            return
        buffers = self._buffers.result() if self._buffers else _memory(self._workers, False)
        left, lock = iter(jobs), threading.Lock()
        ready = torch.cuda.current_stream(self._device).record_event() if self._buffers else None
        failed = threading.Event()

        def next_job() -> _Job | None:
            with lock:
                return None if failed.is_set() else next(left, None)

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

        workers = [self._pool.submit(work, number) for number in range(self._workers)]
        for worker in workers:
            worker.result()

    def _too_large(self, model: torch.nn.Module) -> RunError:
        tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}.values()
        needed = sum(each.numel() * self._wanted(each).itemsize for each in tensors)
        free, _ = torch.cuda.mem_get_info(self._device)
        return RunError(
            "M866",
            name=self._name,
            needed=human_bytes(needed),
            device=str(self._device),
            free=human_bytes(free),
        )


_PLAIN = (torch.Tensor, torch.nn.Parameter, getattr(torch.nn, "Buffer", torch.Tensor))
"""Types of tensors that hold nothing beside their elements; torch 2.4 has no Buffer."""


def _rounded(length: int) -> int:
    """Return what torch's allocator takes for a tensor on a GPU."""
    return -(-length // 512) * 512


def _memory(buffers: int, pinned: bool) -> torch.Tensor:
    return torch.empty(buffers * CHUNK, dtype=torch.uint8, device="cpu", pin_memory=pinned)


def _pieces(source: torch.Tensor, target: torch.Tensor, stored: StoredTensors) -> Iterator[_Piece]:
    """Yield a tensor in pieces of which each fits into a buffer."""
    place = stored.find(source)
    size = source.element_size()
    step = (CHUNK - _ALIGNMENT) // _ALIGNMENT * _ALIGNMENT // size
    for start in range(0, source.numel(), step):
        part = slice(start, start + step)
        yield _Piece(target[part], source[part], 0 if place is None else place[1] + start * size)


def _jobs(pieces: Sequence[_Piece], stored: StoredTensors) -> list[_Job]:
    """Return pieces by what is read at a time: those that lie side by side in one file."""
    placed: list[tuple[Path | None, _Piece]] = []
    for piece in pieces:
        place = stored.find(piece.source)
        placed.append((None if place is None else place[0], piece))
    placed.sort(key=lambda each: (str(each[0] or ""), each[1].offset))
    jobs: list[_Job] = []
    for path, piece in placed:
        last = jobs[-1] if jobs else None
        if last is not None and last.path == path:
            position = piece.offset - last.start
            if path is None:
                position = -(-last.end // _ALIGNMENT) * _ALIGNMENT
            if position + piece.length <= CHUNK and position - last.end <= _GAP:
                last.pieces.append((position, piece))
                continue
        start = piece.offset // _ALIGNMENT * _ALIGNMENT
        jobs.append(_Job(path, start, [(piece.offset - start, piece)]))
    return jobs


def _read(
    job: _Job, buffer: torch.Tensor, files: dict[Path, int], stack: contextlib.ExitStack
) -> None:
    """Fill a buffer with a job's bytes.

    Raises:
        PackError: A pack cannot be read, or is truncated.
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

    On a GPU each thread has a stream of its own, which begins when the memory is free.
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


_OTHER_DEVICES = threading.Lock()
"""Not every backend of torch may be called by several threads."""
