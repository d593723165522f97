"""A model put on a device: its parameters are read from the packs straight into its memory.

The model is built with tensors that are mapped and not yet read; what is to be on a device is then
read by `modpkg.runtime.parallel_copy`. So the CPU never holds the model.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch

from modpkg.core.errors import RunError
from modpkg.core.files import human_bytes
from modpkg.core.installed import TensorRef
from modpkg.runtime.parallel_copy import ParallelCopy, Piece, pieces_of
from modpkg.runtime.shared_parameters import ParameterKey, SharedParameters

_PLAIN = (torch.Tensor, torch.nn.Parameter, getattr(torch.nn, "Buffer", torch.Tensor))
"""Types of tensors that hold nothing beside their elements; torch 2.4 has no Buffer."""


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
        self._copy = ParallelCopy(device, stored.length)
        self._free = 0

    def __enter__(self) -> Placement:
        return self

    def __exit__(self, *_: object) -> None:
        self._copy.close()

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
        pieces: list[Piece] = []
        made: dict[ParameterKey, torch.Tensor] = {}
        moved = {key: self._target(value, pieces, made) for key, value in held.items()}
        for table in tables:
            for key, value in table.items():
                if value is not None:
                    table[key] = moved[id(value)]  # type: ignore[assignment]
        if self._device.type != "meta":
            self._copy.copy(pieces)
        if self._shared is not None:
            owners: dict[int, list[torch.nn.Parameter]] = {}
            for value in moved.values():
                if isinstance(value, torch.nn.Parameter):
                    owners.setdefault(value.data_ptr(), []).append(value)
            for content, tensor in made.items():
                self._shared.add(content, owners[tensor.data_ptr()])

    def _reserve(self, held: Collection[torch.Tensor]) -> None:
        """Have the allocator fetch the memory at once, which is faster than tensor by tensor."""
        if self._device.type == "cuda":
            cached = torch.cuda.memory_reserved(self._device)
            cached -= torch.cuda.memory_allocated(self._device)
            self._free = torch.cuda.mem_get_info(self._device)[0] + cached
            length = sum(-(-self._length(each) // 512) * 512 for each in held)
            with contextlib.suppress(torch.cuda.OutOfMemoryError):  # it may have it in parts
                torch.empty(length, dtype=torch.uint8, device=self._device)

    def _length(self, tensor: torch.Tensor) -> int:
        """Return the bytes that a tensor takes on the device."""
        return tensor.numel() * self._wanted(tensor).itemsize

    def _wanted(self, tensor: torch.Tensor) -> torch.dtype:
        return self.dtypes.get(tensor.data_ptr(), tensor.dtype) if tensor.numel() else tensor.dtype

    def _target(
        self, tensor: torch.Tensor, pieces: list[Piece], made: dict[ParameterKey, torch.Tensor]
    ) -> torch.Tensor:
        """Return a tensor on the device whose elements ``pieces`` then say."""
        dtype = self._wanted(tensor)
        is_there = tensor.device == self._device and tensor.dtype == dtype and not self._copied
        content = None
        if is_there and self._shared is None:
            value = tensor.detach()
        elif not tensor.numel() or not tensor.is_contiguous() or tensor.device.type != "cpu":
            value = tensor.detach().to(self._device, dtype)
        else:
            content = self._content(tensor, dtype, made)
            found = None
            if content is not None and self._shared is not None:
                found = self._shared.find(content)
            if found is not None:
                value = found
            elif is_there:
                value = tensor.detach()
            else:
                value = torch.empty(tensor.shape, dtype=dtype, device=self._device)
                place = self._stored.find(tensor)
                pieces += pieces_of(tensor, value, None if place is None else place[:2])
            if content is not None:
                made[content] = value
        if not isinstance(tensor, torch.nn.Parameter):
            return value
        learns = tensor.requires_grad and self._shared is None
        is_its = is_there and value.data_ptr() == tensor.data_ptr()
        if is_its and learns == tensor.requires_grad:
            return tensor
        parameter = torch.nn.Parameter(value, requires_grad=learns)
        parameter.__dict__.update(tensor.__dict__)
        return parameter

    def _content(
        self, tensor: torch.Tensor, dtype: torch.dtype, made: Collection[ParameterKey]
    ) -> ParameterKey | None:
        """Return what a parameter is shared by; None if it is not."""
        if self._shared is None or not isinstance(tensor, torch.nn.Parameter):
            return None
        place = self._stored.find(tensor)
        if place is None or place[2] is None:
            return None
        shape = tuple(tensor.shape)
        keys = (
            ParameterKey(place[2], tensor.dtype, shape, dtype, self._device, number)
            for number in count()
        )
        return next(key for key in keys if key not in made)

    def _too_large(self, model: torch.nn.Module) -> RunError:
        tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}.values()
        return RunError(
            "M866",
            name=self._name,
            needed=human_bytes(sum(map(self._length, tensors))),
            device=str(self._device),
            free=human_bytes(self._free),
        )
