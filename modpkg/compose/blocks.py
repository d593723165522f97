"""A tensor to make, gone through in blocks of rows: the base's, and what each term changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from modpkg.compose.arrays import Array, Stored, in_double, in_single, read_array
from modpkg.compose.composition import NOTHING, ComputedTensor, Term
from modpkg.compose.memory import SAMPLE_RUNS, SINGLE_ELEMENTS, run_elements
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import ApproximateMagnitudes, Contribution, find_reducer
from modpkg.compose.reducers.single import NARROW
from modpkg.compose.rows import RowReader
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ComposeError
from modpkg.core.installed import TensorRef
from modpkg.core.records import canonical_json


class BoundTerm:
    """A term with its inputs."""

    def __init__(
        self, what: str, model: str, tensor: str, term: Term, source: TensorRef, *, again: bool
    ) -> None:
        self.term = term
        self._becomes = ""
        self.read: dict[str, RowReader] = {}
        """The inputs that come by rows."""
        self._whole: Mapping[str, Any] = {}
        self._torch: Any = None
        self._source: Any = None
        if term.op != NOTHING:
            operator = find_operator(term.op, model)
            if operator.delta is None:
                raise ComposeError("M602", where=model, op=term.op, known="those with a delta")
            self._delta, self._becomes = operator.delta, operator.becomes
            whole: dict[str, Any] = {}
            for role, ref in term.inputs.items():
                if role in operator.by_rows:
                    self.read[role] = RowReader(ref, again=again)
                else:
                    whole[role] = read_array(ref, what)
            if not operator.arrays:
                from modpkg.compose.torch_arrays import from_array, mapped
                from modpkg.compose.torch_threads import use_one_thread

                use_one_thread()
                self._torch = from_array
                self._source = mapped(source)
                whole = {role: from_array(array) for role, array in whole.items()}
            self._whole = whole
            self._prepare = operator.prepare
        self.importance = None if term.importance is None else RowReader(term.importance)
        about = [tensor, {key: value for key, value in term.key_fields().items() if key in _SOURCE}]
        self._key = digest_bytes(canonical_json(about)).encode()

    def prepare(self, base: RowReader) -> None:
        """Let the operator work out once what it needs for all rows."""
        if self.term.op != NOTHING:
            if self._torch is None:
                self._source = base
            if self._prepare is not None:
                self._whole = dict(self._prepare(self._whole, self.term, self._source))

    def delta(self, start: int, stop: int, columns: int) -> Array:
        """Return rows of the change, the term's weight in it, as float64."""
        if self.term.op == NOTHING:
            return np.broadcast_to(np.zeros(()), (stop - start, columns))
        inputs = dict(self._whole)
        for role, rows in self.read.items():
            values = rows.take(start, stop)
            inputs[role] = values if self._torch is None else self._torch(values)
        found = self._delta(inputs, self.term, start, stop, self._source)
        return np.asarray(found).reshape(stop - start, columns)

    def change(self, start: int, stop: int, columns: int) -> Contribution:
        """Return rows of the change as a reducer sees it."""
        found = self._change(self.delta(start, stop, columns), first=start * columns)
        if self.importance is not None:
            return replace(found, importance=self.importance.take(start, stop))
        return found

    def _change(self, delta: Array, **where: Any) -> Contribution:
        return Contribution(
            delta=delta,
            weight=self.term.scale,
            parameters=self.term.settings,
            key=self._key,
            importance=self.term.settings.get("importance", 1.0),
            **where,
        )

    # A fine-tune, value by value -----------------------------------------------------------

    def becomes(self) -> RowReader | None:
        """Return what the base becomes, where that is all that the term is, and is narrow."""
        rows = self.read.get(self._becomes)
        fine = rows is not None and rows.ref.dtype in NARROW and self.importance is None
        return rows if fine else None

    def change_of(self, base: Array, other: Array, places: Any) -> Contribution:
        """Return the change at some places, of the base there and of what it becomes.

        Both are of one shape, and ``other`` is overwritten.
        """
        delta = self._delta({self._becomes: other}, self.term, 0, 1, _Given(base))
        return self._change(delta, places=places)


def _measured(model: str, made: ComputedTensor) -> bool:
    """Say whether a tensor is gone through to be measured, before it is made."""
    if not made.terms:
        return False
    reducer = find_reducer(made.reducer, model)
    return reducer.measure is not None and not reducer.across


class _Given:
    """A `Source` of the values at hand."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def peek(self, start: int, stop: int) -> Array:
        return self._values


_SOURCE = ("op", "parameters", "inputs")
"""What a random stream is named by: the source, however it is weighed."""


class TensorBlocks:
    """See `modpkg.compose.reducers.Blocks`. A context: it holds files open.

    Raises:
        PackError: an input cannot be read.
        IntegrityError: one that is read whole is not what it was.
    """

    def __init__(self, model: str, tensor: str, made: ComputedTensor) -> None:
        self._what = f"What {tensor!r} of {model} is made of"
        again = _measured(model, made)
        self.base = RowReader(made.source, again=again)
        self.terms = [
            BoundTerm(self._what, model, tensor, term, made.source, again=again)
            for term in made.terms
        ]
        try:
            for term in self.terms:
                term.prepare(self.base)
        except BaseException:
            self.close()
            raise
        self.count = self.base.count
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in made.terms]
        self.columns, self.ranges = self.base.columns, self.base.ranges

    def __enter__(self) -> TensorBlocks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for rows in self._read():
            rows.close()

    def _read(self) -> Iterator[RowReader]:
        yield self.base
        for term in self.terms:
            yield from term.read.values()
            if term.importance is not None:
                yield term.importance

    def check(self) -> None:
        """Check what was read by rows against its digests.

        Raises:
            IntegrityError
        """
        for rows in self._read():
            rows.check(self._what)

    def block(self, start: int, stop: int) -> tuple[Array, list[Contribution]]:
        """Return rows of the base that may be overwritten, and the changes to them."""
        changes = [term.change(start, stop, self.columns) for term in self.terms]
        return self.base.take(start, stop), changes

    def __call__(self) -> Iterator[tuple[Array, list[Contribution]]]:
        return (self.block(start, stop) for start, stop in self.ranges())

    def deltas(self, index: int) -> Iterator[Array]:
        for start, stop in self.ranges():
            yield self.terms[index].delta(start, stop, self.columns)

    def becomes(self) -> list[RowReader] | None:
        """Return each term's `BoundTerm.becomes`, where all have it and are of the base's dtype."""
        found = [rows for term in self.terms if (rows := self._like_base(term)) is not None]
        return found if 0 < len(found) == len(self.terms) else None

    def _like_base(self, term: BoundTerm) -> RowReader | None:
        rows = term.becomes()
        return rows if rows is not None and rows.ref.dtype == self.base.ref.dtype else None

    def _plain(self, index: int) -> RowReader | None:
        """Return what the base becomes with a term, if the change is the difference, unweighed."""
        term = self.terms[index]
        return self._like_base(term) if term.term.weight == 1.0 else None

    def rough(self, index: int) -> Iterator[ApproximateMagnitudes]:
        other = self._plain(index)
        if other is None:
            for delta in self.deltas(index):
                size = np.abs(delta).reshape(-1)
                yield size, size.__getitem__
            return
        for first in range(0, self.count, SINGLE_ELEMENTS):
            last = min(first + SINGLE_ELEMENTS, self.count)
            start, end = self.base.flat(first, last), other.flat(first, last)
            found = in_single(end)
            found -= in_single(start)
            yield np.abs(found, out=found), partial(_distance, start, end)

    def sample(self, index: int) -> Array:
        wanted, rows = run_elements(self.count), self.base.rows
        if self.count <= SAMPLE_RUNS * wanted:
            ranges = list(self.ranges())
        else:
            size = max(1, wanted // self.columns)
            last = max(rows - size, 0)
            starts = sorted({last * run // (SAMPLE_RUNS - 1) for run in range(SAMPLE_RUNS)})
            ranges = [(start, min(start + size, rows)) for start in starts]
        if not ranges:
            return np.empty(0)
        if (other := self._plain(index)) is not None:  # small blocks cost calls: all in one
            start, end = (
                np.concatenate([rows.stored(*each) for each in ranges]).reshape(-1)
                for rows in (self.base, other)
            )
            return _distance(start, end, slice(None))
        term = self.terms[index]
        return np.concatenate([term.delta(*each, self.columns).reshape(-1) for each in ranges])


def _distance(start: Stored, end: Stored, where: Any) -> Array:
    """Return how far narrow floats at some places are from one another."""
    found = in_double(end[where])
    found -= in_double(start[where])
    return np.abs(found, out=found)


class ModelBlocks:
    """All tensors of a model in one, for what is measured over a model."""

    def __init__(self, model: str, made: Sequence[tuple[str, ComputedTensor]]) -> None:
        self._model, self._made = model, made
        self.count = sum(int(np.prod(item.source.shape)) for _, item in made)
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in made[0][1].terms]

    def _tensors(self) -> Iterator[TensorBlocks]:
        for name, item in self._made:
            with TensorBlocks(self._model, name, item) as tensor:
                yield tensor

    def __call__(self) -> Iterator[tuple[Array, list[Contribution]]]:
        for tensor in self._tensors():
            yield from tensor()

    def deltas(self, index: int) -> Iterator[Array]:
        for tensor in self._tensors():
            yield from tensor.deltas(index)

    def rough(self, index: int) -> Iterator[ApproximateMagnitudes]:
        for tensor in self._tensors():
            yield from tensor.rough(index)

    def sample(self, index: int) -> Array:
        """Return as much of each tensor as it has of the model."""
        found = []
        for tensor in self._tensors():
            values = tensor.sample(index)
            wanted = max(1, (1 << 20) * tensor.count // max(self.count, 1))
            found.append(values[:: max(1, values.size // wanted)] if tensor.count else values)
        return np.concatenate(found)
