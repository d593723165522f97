"""What decoders read and write: a whole tensor in memory, or its blocks one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class TensorBytes(Protocol):
    """The bytes of a tensor. A decoder asks for each block once, in order."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> memoryview: ...


class OneBlock:
    """Room for one block, which each next one overwrites."""

    def __init__(self, length: int) -> None:
        """``length`` is of the tensor, in bytes."""
        self._length = length
        self._room = memoryview(b"")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> memoryview:
        start, stop, _ = part.indices(self._length)
        if len(self._room) < stop - start:
            self._room = memoryview(bytearray(stop - start))
        return self._room[: stop - start]


class ComingBlocks:
    """A tensor that is decoded while it is read."""

    def __init__(self, length: int, blocks: Iterator[memoryview]) -> None:
        """``length`` is of the tensor, in bytes; ``blocks`` are as long as those asked for."""
        self._length = length
        self._blocks = blocks

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> memoryview:
        return next(self._blocks)
