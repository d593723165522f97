"""A tensor to make, gone through in blocks of rows: the base's, and what each term changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from modpkg.compose.composition import NOTHING, Made, Term
from modpkg.compose.mapping import MappedTensor, map_tensors
from modpkg.compose.memory import BLOCK_ELEMENTS
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import Change
from modpkg.digests import digest_bytes
from modpkg.errors import UnknownOperator
from modpkg.installed import TensorRef
from modpkg.records import canonical_json

_SAMPLE_RUNS = 16
_SAMPLE_ELEMENTS = 1 << 9
"""Least elements of a run; of a large tensor, a two-thousandth."""


class Rows:
    """A tensor that is read by rows, and whose memory is given back behind them."""

    def __init__(self, ref: TensorRef) -> None:
        self._mapped = MappedTensor(ref)
        self.tensor = self._mapped.tensor
        self.matrix = matrix(self.tensor)

    def take(self, start: int, stop: int) -> torch.Tensor:
        """Return rows as float64 that may be overwritten."""
        found = self.matrix[start:stop].to(torch.float64, copy=True)
        self.release(start, stop)
        return found

    def release(self, start: int, stop: int) -> None:
        width = self.matrix.shape[1] * self.tensor.element_size()
        self._mapped.release(start * width, stop * width)


class Bound:
    """A term with its inputs mapped."""

    def __init__(self, model: str, tensor: str, term: Term, base: torch.Tensor) -> None:
        self.term, self._base = term, base
        self._whole: dict[str, torch.Tensor] = {}
        self._rows: dict[str, Rows] = {}
        if term.op != NOTHING:
            operator = find_operator(term.op, model)
            if operator.delta is None:
                raise UnknownOperator(where=model, op=term.op, known="those with a delta")
            self._delta = operator.delta
            for role, ref in term.inputs.items():
                if role in operator.by_rows:
                    self._rows[role] = Rows(ref)
                else:
                    self._whole[role] = mapped(ref).double()
            if operator.prepare is not None:
                self._whole = dict(operator.prepare(self._whole, term, base))
        self._importance = None if term.importance is None else Rows(term.importance)
        about = [tensor, {key: value for key, value in term.account().items() if key in _SOURCE}]
        self._key = digest_bytes(canonical_json(about)).encode()

    def delta(self, start: int, stop: int, columns: int) -> torch.Tensor:
        """Return rows of the change, the term's weight in it, as float64."""
        if self.term.op == NOTHING:
            return torch.zeros((), dtype=torch.float64).expand(stop - start, columns)
        inputs = dict(self._whole)
        for role, rows in self._rows.items():
            inputs[role] = rows.take(start, stop)
        found = self._delta(inputs, self.term, start, stop, self._base)
        return found.view(stop - start, columns)

    def change(self, start: int, stop: int, columns: int) -> Change:
        """Return rows of the change as a reducer sees it."""
        importance: Any = self.term.settings.get("importance", 1.0)
        if self._importance is not None:
            importance = self._importance.take(start, stop)
        return Change(
            delta=self.delta(start, stop, columns),
            weight=self.term.scale,
            parameters=self.term.settings,
            key=self._key,
            first=start * columns,
            importance=importance,
        )


_SOURCE = ("op", "parameters", "inputs")
"""What a random stream is named by: the source, however it is weighed."""


class TensorBlocks:
    """See `modpkg.compose.reducers.Blocks`."""

    def __init__(self, model: str, tensor: str, made: Made) -> None:
        self._base = Rows(made.source)
        self.source = self._base.matrix
        self.terms = [Bound(model, tensor, term, self._base.tensor) for term in made.terms]
        self.count = self.source.numel()
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in made.terms]
        self.rows, self.columns = self.source.shape
        self.height = min(self.rows, max(1, BLOCK_ELEMENTS // max(self.columns, 1)))
        """Rows of a block, but for the last."""

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the first row of each block, and the one after its last."""
        for start in range(0, self.rows if self.count else 0, self.height):
            stop = min(start + self.height, self.rows)
            yield start, stop
            self._base.release(start, stop)

    def base(self, start: int, stop: int) -> torch.Tensor:
        """Return rows of the base, as float64 that may be overwritten."""
        return self.source[start:stop].to(torch.float64, copy=True)

    def changes(self, start: int, stop: int) -> list[Change]:
        return [term.change(start, stop, self.columns) for term in self.terms]

    def __call__(self) -> Iterator[tuple[torch.Tensor, list[Change]]]:
        for start, stop in self.ranges():
            yield self.base(start, stop), self.changes(start, stop)

    def deltas(self, index: int) -> Iterator[torch.Tensor]:
        for start, stop in self.ranges():
            yield self.terms[index].delta(start, stop, self.columns)

    def sample(self, index: int) -> torch.Tensor:
        if self.count <= _SAMPLE_RUNS * _SAMPLE_ELEMENTS:
            return torch.cat([delta.flatten() for delta in self.deltas(index)])
        size = max(1, max(_SAMPLE_ELEMENTS, self.count >> 11) // self.columns)
        last = max(self.rows - size, 0)
        starts = sorted({last * run // (_SAMPLE_RUNS - 1) for run in range(_SAMPLE_RUNS)})
        return torch.cat(
            [
                self.terms[index].delta(start, min(start + size, self.rows), self.columns).flatten()
                for start in starts
            ]
        )


class ModelBlocks:
    """All tensors of a model in one, for what is measured over a model."""

    def __init__(self, model: str, made: Sequence[tuple[str, Made]]) -> None:
        self._model, self._made = model, made
        self.count = sum(torch.Size(item.source.shape).numel() for _, item in made)
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in made[0][1].terms]

    def _tensors(self) -> Iterator[TensorBlocks]:
        return (TensorBlocks(self._model, name, item) for name, item in self._made)

    def __call__(self) -> Iterator[tuple[torch.Tensor, list[Change]]]:
        for tensor in self._tensors():
            yield from tensor()

    def deltas(self, index: int) -> Iterator[torch.Tensor]:
        for tensor in self._tensors():
            yield from tensor.deltas(index)

    def sample(self, index: int) -> torch.Tensor:
        """Return as much of each tensor as it has of the model."""
        found = []
        for tensor in self._tensors():
            values = tensor.sample(index)
            wanted = max(1, (1 << 20) * tensor.count // max(self.count, 1))
            found.append(values[:: max(1, values.numel() // wanted)] if tensor.count else values)
        return torch.cat(found)


def mapped(ref: TensorRef) -> torch.Tensor:
    """Return a tensor as it lies in its pack."""
    return map_tensors([(ref.file, ref)])[ref.file]


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with its first extent as rows and all others as columns.

    A vector has one column, so that long ones are cut into blocks too.
    """
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1 if tensor.numel() else 1)
