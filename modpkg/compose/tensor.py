"""Making one tensor: the job that a worker does, in a thread or in another process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from modpkg.compose.arrays import Array, Stored
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor
from modpkg.compose.narrow_floats import NarrowReduction
from modpkg.compose.reducers import Contribution, Reducer, as_arguments, find_reducer
from modpkg.compose.reducers.single import NARROW
from modpkg.compose.rounding import all_finite, is_finite, rounded
from modpkg.core.digests import Digest
from modpkg.core.errors import ComposeError
from modpkg.core.packs import PackTensor


class Job(Struct, frozen=True, kw_only=True):
    """One tensor to make, with all that a worker needs to know; can be pickled."""

    model: str
    name: str
    computed: ComputedTensor
    file: str
    """The pack, at its full length already."""
    place: PackTensor
    """Where in it the result goes."""
    measured: Any = None
    """What the reducer measured over the model, if it is one of those."""


_LARGE = 1 << 24
"""Once something of this size was given back, glibc gives no memory of smaller blocks back to the
system, only to take it again for the next one, which costs as much as what is computed in them."""


def make_tensor(job: Job) -> Digest:
    """Compute a tensor block by block into its place, and return the digest of its bytes.

    Everything is summed in float64 and rounded once. What goes in is hashed as it is read: it may
    have lain here for years, and what is made of damaged bytes would count as sound.

    Raises:
        ComposeError: the result has NaN or infinity. PackError: an input cannot be read.
        IntegrityError: an input is not what it was when it was fetched.
        ComposeError: the method cannot do with these values.
    """
    np.empty(_LARGE, np.uint8)
    place = job.place
    state = hashlib.sha256()
    # NaN and infinity are looked for in the result.
    with np.errstate(all="ignore"), TensorBlocks(job.model, job.name, job.computed) as blocks:
        if place.length:
            try:
                with open(job.file, "r+b", buffering=0) as file:
                    file.seek(place.offset)
                    for found in Reduction(job, blocks):
                        data = found.reshape(-1).view(np.uint8).data
                        state.update(data)
                        while data:
                            data = data[file.write(data) :]
            except ComposeError:
                blocks.check()  # damage comes first: it may be the reason
                raise
            blocks.check()
    return Digest("sha256:" + state.hexdigest())


class Reduction:
    """The result of one tensor, in blocks of rows or of elements, as they lie in a pack."""

    def __init__(self, job: Job, blocks: TensorBlocks) -> None:
        made = job.computed
        self._job, self._blocks = job, blocks
        self._reducer: Reducer | None = None
        self._measured: tuple[Any, ...] = ()
        if made.terms or made.settings:
            self._reducer = find_reducer(made.reducer, job.model)
            self._arguments = as_arguments(self._reducer, made.settings)
            if self._reducer.measure is not None:
                self._measured = (job.measured,)
                if not self._reducer.across:
                    self._measured = (
                        _call_method(job, self._reducer.measure, blocks, **self._arguments),
                    )

    def __iter__(self) -> Iterator[Stored]:
        screening = self._screening()
        if screening is not None:
            yield from screening
            return
        for start, stop in self._blocks.ranges():
            yield self._made(*self._blocks.block(start, stop))

    def _screening(self) -> NarrowReduction | None:
        """Return how to make it in float32 first, where that is possible."""
        others = self._blocks.becomes()
        reducer, made = self._reducer, self._job.computed
        if others is None or reducer is None or reducer.single is None:
            return None
        summed = reducer.name == "sum"  # their weights are in the changes already
        weights = [term.weight if summed else term.scale for term in made.terms]
        dtype = self._job.place.dtype
        if dtype != made.source.dtype or not (
            summed or all(term.weight == 1.0 for term in made.terms)
        ):
            return None
        single = reducer.single(NARROW[dtype], weights, made.settings)
        if single is None:
            return None
        measured = self._measured[0] if self._measured else None
        if single.pieces(measured, 0, self._blocks.count) is None:
            return None
        return NarrowReduction(dtype, single, measured, self._blocks.base, others, self._at)

    def _at(self, base: Array, others: Sequence[Array], places: Any) -> Stored:
        """Return the result at some places, see `modpkg.compose.narrow_floats.Exact`."""
        terms = zip(self._blocks.terms, others, strict=True)
        return self._made(base, [term.change_of(base, other, places) for term, other in terms])

    def _made(self, values: Array, changes: Sequence[Contribution]) -> Stored:
        """Return what ``values``, which are overwritten, and changes to them make, rounded."""
        dtype = self._job.place.dtype
        if self._reducer is not None:
            values = _call_method(
                self._job,
                self._reducer.reduce,
                values,
                changes,
                *self._measured,
                **self._arguments,
            )
        found = rounded(values, dtype)
        # Those that a base has itself may stay when only the dtype changes: attention masks
        # are kept so.
        if not all_finite(found, dtype):
            broken = ~is_finite(found, dtype)
            if self._reducer is not None or np.isfinite(values[broken]).any():
                raise ComposeError("M605", model=self._job.model, tensor=self._job.name)
        return found


def _call_method(job: Job, function: Any, *positional: Any, **named: Any) -> Any:
    """Return what a method's function returns; its ValueError names the tensor."""
    try:
        return function(*positional, **named)
    except ValueError as error:
        reason = f"method {job.computed.reducer!r} cannot make {job.name!r}: {error}"
        raise ComposeError("M601", model=job.model, reason=reason) from error
