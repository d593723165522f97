"""The inputs of a tensor, read in blocks of rows: the base's rows and each term's delta."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from modpkg.adapters.formula import Elements, Error, Extent, Sizes, UndefinedChange, largest
from modpkg.compose.arrays import (
    Array,
    distance,
    in_double,
    in_single,
    left_by_rounding,
    read_array,
)
from modpkg.compose.composition import NOTHING, ComputedTensor, Term
from modpkg.compose.exact_numbers import Exact, finite_numbers
from modpkg.compose.low_rank import LowRankFactors
from modpkg.compose.memory import (
    BLOCK_ELEMENTS,
    SAMPLE_RUNS,
    SINGLE_ELEMENTS,
    is_measured,
    run_elements,
)
from modpkg.compose.moved_rows import MovedReader
from modpkg.compose.narrow_floats import below, inexact_below
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import ApproximateMagnitudes, Contribution
from modpkg.compose.reducers.single import NARROW
from modpkg.compose.rows import RowReader
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ComposeError
from modpkg.core.installed import TensorRef
from modpkg.core.records import canonical_json


class BoundTerm:
    """A term with its inputs opened or read."""

    def __init__(
        self,
        what: str,
        model: str,
        tensor: str,
        term: Term,
        source: TensorRef,
        *,
        again: bool,
        trusted: frozenset[str],
        rows: int | None = None,
    ) -> None:
        self.term = term
        self._model, self._tensor = model, tensor
        self._becomes = ""
        self.read: dict[str, RowReader] = {}
        """The inputs that are read in rows, by role."""
        self._whole: Mapping[str, Any] = {}
        self._torch: Any = None
        self._source: Any = None
        self.exact: Any = None
        """`Formula.exact`, if the change is exact."""
        self.raw: Mapping[str, Any] = {}
        """The inputs that `exact` gets, besides those read in rows."""
        self._error: Any = None
        self.leaves: Any = None
        """`Formula.leaves`."""
        self._extents: dict[str, Extent] = {}
        if term.op != NOTHING:
            operator = find_operator(term.op, model)
            if operator.delta is None:
                raise ComposeError("M602", where=model, op=term.op, known="those with a delta")
            self._delta, self._becomes = operator.delta, operator.becomes
            self.exact, self._prepare_rounds = operator.exact, operator.prepare_rounds
            self._factors = operator.factors
            self._error, self.leaves = operator.error, operator.leaves
            whole: dict[str, Any] = {}
            for role, ref in term.inputs.items():
                if role in operator.by_rows:
                    self.read[role] = RowReader(ref, again=again, trusted=ref.file in trusted)
                else:
                    whole[role] = read_array(ref, what, trusted=ref.file in trusted)
            self.raw = dict(whole)
            if not operator.arrays:
                from modpkg.compose.torch_arrays import from_array, mapped, resized
                from modpkg.compose.torch_threads import use_one_thread

                use_one_thread()
                self._torch = from_array
                self._source = mapped(source) if rows is None else resized(mapped(source), rows)
                whole = {role: from_array(array) for role, array in whole.items()}
            self._whole = whole
            self._prepare = operator.prepare
        self.importance: RowReader | None = None
        if term.importance is not None:
            self.importance = RowReader(term.importance, trusted=term.importance.file in trusted)

    @cached_property
    def key(self) -> bytes:
        """`Contribution.key`."""
        fields = self.term.key_fields()
        source_fields = {key: fields[key] for key in _STREAM_FIELDS}
        return digest_bytes(canonical_json([self._tensor, source_fields])).encode()

    def prepare(self, base: RowReader) -> None:
        """Run the operator's `prepare`, which computes once what all rows need."""
        if self.term.op != NOTHING:
            if self._torch is None:
                self._source = base
            if self._prepare is not None:
                try:
                    self._whole = dict(self._prepare(self._whole, self.term, self._source))
                except UndefinedChange as error:
                    reason = f"{self.term.op!r} cannot compute {self._tensor!r}: {error}"
                    raise ComposeError("M601", model=self._model, reason=reason) from None
                if not self._prepare_rounds:
                    self.raw = {role: np.asarray(each) for role, each in self._whole.items()}
            if self.exact is None:
                self.raw = {}

    def delta(self, start: int, stop: int, columns: int) -> Array:
        """Return rows of the delta as float64, [stop - start, columns], times the term's weight."""
        if self.term.op == NOTHING:
            return np.broadcast_to(np.zeros(()), (stop - start, columns))
        inputs = dict(self._whole)
        for role, rows in self.read.items():
            values = rows.take(start, stop)
            inputs[role] = values if self._torch is None else self._torch(values)
        rows_of_delta = self._delta(inputs, self.term, start, stop, self._source)
        return np.asarray(rows_of_delta).reshape(stop - start, columns)

    def factors(self) -> tuple[Array, Array] | None:
        """Return the delta as `modpkg.adapters.formula.Formula.factors`; None if it has none."""
        if self.term.op == NOTHING or self._factors is None or self.importance is not None:
            return None
        return self._factors(self._whole, self.term.parameters)

    def contribution(self, start: int, stop: int, columns: int) -> Contribution:
        """Return rows of the delta as a reducer gets them."""
        result = self._contribution(self.delta(start, stop, columns), first=start * columns)
        if self.importance is not None:
            return replace(result, importance=self.importance.take(start, stop))
        return result

    def _contribution(self, delta: Array, **where: Any) -> Contribution:
        return Contribution(
            delta=delta,
            weight=self.term.scale,
            parameters=self.term.settings,
            key=self.key,
            importance=self.term.settings.get("importance", 1.0),
            **where,
        )

    def error(self, sizes: Sizes) -> Error:
        """Return a bound of the error of each element of a block of `delta`; it may be infinite."""
        if self.term.op == NOTHING:
            return Error()
        if self._error is None:
            return Error(math.inf)
        if not self._extents:
            self._extents = {role: Extent((), math.nan) for role in self.read} | {
                role: Extent(array.shape, largest(array)) for role, array in self.raw.items()
            }
        error: Error = self._error(self._extents, self.term, sizes)
        return error

    def exactly(self, source: RowReader, base: Exact, places: Any, broken: Any) -> Exact:
        """Return the delta at some places, without rounding, times the term's weight.

        Args:
            source: The base's tensor, and ``base`` its values there.
            broken: A mask that is set where an input is not finite.
        """
        if self.exact is None:
            return base.ones() * 0

        def number(values: Array) -> Exact:
            return finite_numbers(values, broken)

        elements = Elements(places, source.columns, source.shape, base, number)
        delta: Exact = self.exact(self._inputs_at(places), self.term, elements)
        return delta

    def _inputs_at(self, places: Any) -> dict[str, Any]:
        return {**self.raw, **{role: rows.at(places) for role, rows in self.read.items()}}

    def left_alone(self, source: RowReader, places: Any) -> Any:
        """Return a mask of the places that keep a base of −0.0, if the change is 0."""
        if self.leaves is None:
            return np.zeros(len(places), np.bool_)
        elements = Elements(places, source.columns, source.shape, None, np.asarray)
        return self.leaves(self._inputs_at(places), self.term, elements)

    def contribution_of(self, delta: Any, places: Any) -> Contribution:
        """Return the contribution of a delta at some elements."""
        return self._contribution(delta, places=places)

    def becomes(self) -> RowReader | None:
        """Return the tensor that the base's would become, if the term is the way to it."""
        return self.read.get(self._becomes) if self.importance is None else None

    # A fine-tune, value by value -----------------------------------------------------------

    def fine_tune(self) -> RowReader | None:
        """Return the fine-tuned tensor, if the term is its difference from the base and its dtype
        is bfloat16 or float16."""
        rows = self.read.get(self._becomes)
        narrow = rows is not None and rows.ref.dtype in NARROW and self.importance is None
        return rows if narrow else None

    def contribution_at(self, base: Array, other: Array, places: Any) -> Contribution:
        """Return the contribution at some elements, from the base's and the fine-tune's values.

        Both have the same shape, and ``other`` is overwritten.
        """
        delta = self._delta({self._becomes: other}, self.term, 0, 1, _ArrayRows(base))
        return self._contribution(delta, places=places)


class _ArrayRows:
    """The base's values from an array, for an operator that calls `peek`."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def peek(self, start: int, stop: int) -> Array:
        return self._values


_STREAM_FIELDS = ("op", "parameters", "inputs")
"""Fields of a term that select its random stream: what it is made from, not how it is weighted."""


def input_of(model: str, tensor: str) -> str:
    """Return how an input of a tensor is called in errors."""
    return f"An input of {tensor!r} of {model}"


class TensorBlocks:
    """One tensor's `modpkg.compose.reducers.Blocks`. A context manager: it holds files open.

    Raises:
        PackError: An input cannot be read.
        IntegrityError: An input that is read whole does not match its digest.
    """

    def __init__(
        self,
        model: str,
        tensor: str,
        computed: ComputedTensor,
        trusted: frozenset[str] = frozenset(),
    ) -> None:
        """Open the inputs; those in ``trusted`` files are not hashed."""
        self._what = input_of(model, tensor)
        again = is_measured(model, computed)
        source = computed.source
        rows = computed.rows
        if computed.moved is not None:
            self.base: RowReader = MovedReader(computed.moved, again=again, trusted=trusted)
        else:
            self.base = RowReader(source, again=again, trusted=source.file in trusted, rows=rows)
        self.terms = [
            BoundTerm(
                self._what, model, tensor, term, source, again=again, trusted=trusted, rows=rows
            )
            for term in computed.terms
        ]
        try:
            for term in self.terms:
                term.prepare(self.base)
        except BaseException:
            self.close()
            raise
        self.count, self.shape = self.base.count, self.base.shape
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in computed.terms]
        self.columns, self.ranges = self.base.columns, self.base.ranges

    @cached_property
    def keys(self) -> Sequence[bytes]:
        """`Contribution.key` of each step."""
        return [term.key for term in self.terms]

    def __enter__(self) -> TensorBlocks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for rows in self._readers():
            rows.close()

    def _readers(self) -> Iterator[RowReader]:
        yield self.base
        for term in self.terms:
            yield from term.read.values()
            if term.importance is not None:
                yield term.importance

    def check(self) -> None:
        """Check the inputs that were read in rows against their digests.

        Raises:
            IntegrityError: One does not match.
        """
        for rows in self._readers():
            rows.check(self._what)

    def block(self, start: int, stop: int) -> tuple[Array, list[Contribution]]:
        """Return rows of the base, which may be overwritten, and the contributions to them."""
        contributions = [term.contribution(start, stop, self.columns) for term in self.terms]
        return self.base.take(start, stop), contributions

    def __call__(self) -> Iterator[tuple[Array, list[Contribution]]]:
        return (self.block(start, stop) for start, stop in self.ranges())

    def deltas(self, index: int) -> Iterator[Array]:
        for start, stop in self.ranges():
            yield self.terms[index].delta(start, stop, self.columns)

    def low_rank(self) -> LowRankFactors | None:
        """Return the sum of all terms' deltas as one product, if each is a product of the base's
        rows and columns."""
        left, right = [], []
        for term in self.terms:
            factors = term.factors()
            if factors is None or len(factors[0]) != 1 or not self.count:
                return None
            shape = (factors[0].shape[1], factors[1].shape[2])
            if shape != (self.base.rows, self.columns):
                return None
            left.append(factors[0][0] * term.term.weight)
            right.append(factors[1][0])
        if not left:
            return None
        return LowRankFactors(np.concatenate(left, 1), np.concatenate(right, 0))

    def fine_tunes(self) -> list[RowReader] | None:
        """Return each term's fine-tuned tensor, if all have one, in the base's dtype."""
        readers = [rows for term in self.terms if (rows := self._fine_tune(term)) is not None]
        return readers if 0 < len(readers) == len(self.terms) else None

    def _fine_tune(self, term: BoundTerm) -> RowReader | None:
        rows = term.fine_tune()
        return rows if rows is not None and rows.ref.dtype == self.base.ref.dtype else None

    def _unweighted_fine_tune(self, index: int) -> RowReader | None:
        """Return a term's fine-tuned tensor, if its delta is the plain difference."""
        term = self.terms[index]
        return self._fine_tune(term) if term.term.weight == 1.0 else None

    def approximate(self, index: int, bound: float) -> Iterator[ApproximateMagnitudes]:
        other = self._unweighted_fine_tune(index)
        if other is None:
            for first, stop in self.ranges():
                size = np.abs(self.terms[index].delta(first, stop, self.columns)).reshape(-1)
                yield ApproximateMagnitudes(first * self.columns, size, size.__getitem__)
            return
        tiny = inexact_below(self.base.ref.dtype, bound)
        # Memory that is used again stays in a core's cache.
        wide = np.empty((2, min(SINGLE_ELEMENTS, self.count)), np.float32)
        for first in range(0, self.count, SINGLE_ELEMENTS):
            last = min(first + SINGLE_ELEMENTS, self.count)
            start, end = self.base.flat(first, last), other.flat(first, last)
            size = in_single(end, out=wide[0, : end.size])
            size -= in_single(start, out=wide[1, : start.size])
            np.abs(size, out=size)
            exactly = partial(distance, start, end)
            apart, others = below(start, tiny), below(end, tiny)
            if not (apart.size or others.size):
                yield ApproximateMagnitudes(first, size, exactly, exact=True)
                continue
            apart = np.union1d(apart, others)
            rest = left_by_rounding(in_double(end.take(apart)), in_double(start.take(apart)))
            yield ApproximateMagnitudes(
                first=first,
                values=size,
                exactly=exactly,
                exact=apart.size < size.size // 16,
                apart=apart,
                rounded=exactly(apart[rest != 0]),
            )

    def error(self, index: int) -> Error | None:
        term = self.terms[index]
        if term.exact is None and term.term.op != NOTHING:
            return None
        error = term.error(Sizes(math.inf, math.inf))
        if math.isfinite(error.absolute):
            return error
        base = delta = 0.0
        for start, stop in self.ranges():
            base = max(base, largest(self.base.peek(start, stop)))
            delta = max(delta, largest(term.delta(start, stop, self.columns)))
        return term.error(Sizes(base, delta))

    def rounds(self, index: int, places: Any) -> bool:
        other = self._unweighted_fine_tune(index)
        if other is None:
            return True
        for first in range(0, len(places), BLOCK_ELEMENTS):
            some = places[first : first + BLOCK_ELEMENTS]
            if left_by_rounding(other.at(some), self.base.at(some)).any():
                return True
        return False

    def exactly(self, index: int, places: Any) -> Exact:
        broken = np.zeros(len(places), np.bool_)
        base = finite_numbers(self.base.at(places), broken)
        return self.terms[index].exactly(self.base, base, places, broken)

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
        if (other := self._unweighted_fine_tune(index)) is not None:  # one call for all ranges
            start, end = self.base.some(ranges), other.some(ranges)
            return distance(start, end, slice(None))
        term = self.terms[index]
        return np.concatenate([term.delta(*each, self.columns).reshape(-1) for each in ranges])
