"""The inputs of all tensors of a model, for methods that measure something over all of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from modpkg.adapters.formula import Error
from modpkg.compose.arrays import Array
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor, InnerTensor
from modpkg.compose.exact_numbers import Exact
from modpkg.compose.reducers import ApproximateMagnitudes, Contribution
from modpkg.compose.tensor import Job
from modpkg.compose.unfolding import unfolded
from modpkg.core.packs import PackTensor


class ModelBlocks:
    """All tensors of a model as one `modpkg.compose.reducers.Blocks`."""

    def __init__(
        self,
        model: str,
        computed: Sequence[tuple[str, ComputedTensor]],
        inner: Mapping[str, InnerTensor] = MappingProxyType({}),
        folder: Path = Path(),
    ) -> None:
        """Take the tensors; inputs that are not stored are computed into ``folder`` when read."""
        self._model, self._computed = model, computed
        self._inner, self._folder = dict(inner), folder
        self.count = sum(int(np.prod(item.shape)) for _, item in computed)
        self.shape = (self.count,)
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in computed[0][1].terms]
        self.keys: Sequence[bytes] = ()

    def _tensors(self) -> Iterator[TensorBlocks]:
        for name, item in self._computed:
            with self._opened(name, item) as tensor:
                yield tensor

    @contextlib.contextmanager
    def _opened(self, name: str, item: ComputedTensor) -> Iterator[TensorBlocks]:
        place = PackTensor(item.dtype, item.shape, 0, item.length)
        job = Job(
            model=self._model, name=name, computed=item, file="", place=place, inner=self._inner
        )
        with (
            unfolded(job, self._folder) as whole,
            TensorBlocks(self._model, name, whole.computed, whole.trusted) as tensor,
        ):
            yield tensor

    def __call__(self) -> Iterator[tuple[Array, list[Contribution]]]:
        for tensor in self._tensors():
            yield from tensor()

    def deltas(self, index: int) -> Iterator[Array]:
        for tensor in self._tensors():
            yield from tensor.deltas(index)

    def approximate(self, index: int, bound: float) -> Iterator[ApproximateMagnitudes]:
        before = 0
        for tensor in self._tensors():
            for block in tensor.approximate(index, bound):
                yield block._replace(first=before + block.first)
            before += tensor.count

    def error(self, index: int) -> Error | None:
        largest_error = Error()
        for tensor in self._tensors():
            if (error := tensor.error(index)) is None:
                return None
            largest_error = largest_error.largest(error)
        return largest_error

    def rounds(self, index: int, places: Any) -> bool:
        return any(tensor.rounds(index, own) for tensor, own in self._at(places))

    def exactly(self, index: int, places: Any) -> Exact:
        return Exact.joined([tensor.exactly(index, own) for tensor, own in self._at(places)])

    def _at(self, places: Any) -> Iterator[tuple[TensorBlocks, Any]]:
        """Yield each tensor that has some of the places, and their flat indices in it."""
        first = 0
        for name, item in self._computed:
            count = math.prod(item.shape)
            own = places[slice(*places.searchsorted([first, first + count]))] - first
            if len(own):
                with self._opened(name, item) as tensor:
                    yield tensor, own
            first += count

    def sample(self, index: int) -> Array:
        """Return a sample of each tensor, in proportion to its size."""
        samples = []
        for tensor in self._tensors():
            values = tensor.sample(index)
            wanted = max(1, (1 << 20) * tensor.count // max(self.count, 1))
            samples.append(values[:: max(1, values.size // wanted)] if tensor.count else values)
        return np.concatenate(samples)
