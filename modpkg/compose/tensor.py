"""Computing one tensor: the job of a worker, in a thread or in another process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from modpkg.compose.arrays import Array, Stored, in_double
from modpkg.compose.blocks import TensorBlocks, input_of
from modpkg.compose.certified import Certified
from modpkg.compose.composition import ComputedTensor, InnerTensor
from modpkg.compose.decided_merge import DecidedMerge, decided_merge
from modpkg.compose.exact import ExactTensor, is_exact
from modpkg.compose.low_rank import MOST_RANK, LowRankReduction
from modpkg.compose.narrow_floats import NarrowReduction
from modpkg.compose.reducers import Contribution, Reducer, as_arguments, find_reducer
from modpkg.compose.reducers.single import NARROW
from modpkg.compose.rounding import all_finite, is_finite, rounded
from modpkg.compose.rows import RowReader
from modpkg.compose.sums import DecidedSum, decided_sum
from modpkg.core import system
from modpkg.core.digests import Digest
from modpkg.core.errors import ComposeError
from modpkg.core.installed import TensorRef
from modpkg.core.packs import PackTensor
from modpkg.core.system_writeback import begin_writing


class Job(Struct, frozen=True, kw_only=True):
    """One tensor to compute, with everything that computing it needs."""

    model: str
    name: str
    computed: ComputedTensor
    file: str
    """The pack, already at its full length."""
    place: PackTensor
    """The result's place in the pack."""
    measured: Any = None
    """What the reducer measured over the model, if it does."""
    trusted: frozenset[str] = frozenset()
    """Files that this process has just verified: their tensors are not hashed again."""
    device: str = ""
    """torch's device that computes what it can, see `modpkg.compose.torch_reduction`; none if
    empty."""
    inner: dict[str, InnerTensor] = {}
    """Inputs that are not stored, see `modpkg.compose.unfolding`; none when it is computed."""
    scratch: bool = False
    """Whether the result is needed only for a while, so that it need not be written to disk."""


_LARGE = 1 << 24
"""After an allocation of this size is freed, glibc's malloc raises its mmap threshold and no longer
returns smaller blocks to the system, only to request them again for the next block; that would take
as long as the arithmetic."""


_WRITTEN_AT_ONCE = 1 << 23
"""Bytes after which the system is asked to write them to disk."""


def make_tensor(job: Job) -> Digest:
    """Compute a tensor block by block into its place, and return the digest of its bytes.

    Sums are float64 and rounded once. Inputs are hashed as they are read: the files may be years
    old, and a result of damaged bytes would pass as valid.

    Raises:
        ComposeError: The result has NaN or infinity, or the method rejects the values.
        PackError: An input cannot be read.
        IntegrityError: An input does not match its digest.
    """
    state = hashlib.sha256()
    _write(job, None, job.trusted, state.update)
    return Digest("sha256:" + state.hexdigest())


def make_part(job: Job, start: int, stop: int) -> None:
    """Compute rows of a tensor into their place.

    Inputs are not hashed: `check_input` does that, once for all parts.

    Raises:
        ComposeError, PackError: As `make_tensor`.
    """
    trusted = frozenset(ref.file for ref in job.computed.inputs())
    _write(job, (start, stop), trusted, lambda _: None)


def check_input(model: str, tensor: str, ref: TensorRef) -> None:
    """Check an input of a tensor against its digest.

    Raises:
        PackError: It cannot be read.
        IntegrityError: It does not match.
    """
    rows = RowReader(ref)
    try:
        rows.check(input_of(model, tensor))
    finally:
        rows.close()


def _write(
    job: Job,
    rows: tuple[int, int] | None,
    trusted: frozenset[str],
    hashed: Callable[[memoryview], object],
) -> None:
    """Compute a tensor, or some of its rows, into its place; ``hashed`` gets the bytes in order."""
    np.empty(_LARGE, np.uint8)
    place = job.place
    # The result is checked for NaN and infinity.
    with (
        np.errstate(all="ignore"),
        TensorBlocks(job.model, job.name, job.computed, trusted) as blocks,
    ):
        if place.length:
            try:
                with open(job.file, "r+b", buffering=0) as file:
                    begun = written = 0
                    offset, end = place.offset, place.length
                    if rows is not None:
                        width = place.length // place.shape[0]
                        offset, end = offset + rows[0] * width, (rows[1] - rows[0]) * width
                    for block in Reduction(job, blocks, rows):
                        data = block.reshape(-1).view(np.uint8).data
                        hashed(data)
                        system.write_at(file.fileno(), data, offset + written)
                        written += len(data)
                        if written - begun >= _WRITTEN_AT_ONCE or written == end:
                            if not job.scratch:
                                begin_writing(file.fileno(), offset + begun, written - begun)
                            begun = written
            except ComposeError:
                blocks.check()  # report damage first: it may be the cause
                raise
            blocks.check()


class Reduction:
    """The result of one tensor, iterated in blocks of rows or elements, as stored in a pack."""

    def __init__(self, job: Job, blocks: TensorBlocks, rows: tuple[int, int] | None = None) -> None:
        """Measure what the method measures; with ``rows``, only these are iterated."""
        computed = job.computed
        self._job, self._blocks = job, blocks
        self._rows = rows or (0, blocks.base.rows)
        self._reducer: Reducer | None = None
        self._measured: tuple[Any, ...] = ()
        self.exact: ExactTensor | None = None
        """The exact results, where the method defines them: the last word on every element."""
        self._decided: DecidedSum | DecidedMerge | None = None
        if computed.terms or computed.settings:
            self._reducer = find_reducer(computed.reducer, job.model)
            self._arguments = as_arguments(self._reducer, computed.settings)
            if self._reducer.measure is not None:
                self._measured = (job.measured,)
                if not self._reducer.across:
                    self._measured = (
                        _call_method(job, self._reducer.measure, blocks, **self._arguments),
                    )
            if is_exact(job.model, computed, self._reducer):
                self.exact = ExactTensor(
                    blocks, job.place.dtype, self._reducer, self._arguments, self._measured
                )

    def __iter__(self) -> Iterator[Stored]:
        if (by_torch := self._torch_reduction()) is not None:
            yield from by_torch
            return
        if (faster := self._low_rank_reduction() or self._narrow_reduction()) is not None:
            yield from faster.within(*self._rows)
            return
        columns = self._blocks.columns
        for start, stop in self._blocks.ranges(*self._rows):
            values, contributions = self._blocks.block(start, stop)
            yield self._reduce(values, contributions, start * columns)

    def _torch_reduction(self) -> Iterable[Stored] | None:
        """Return the reduction of this tensor by torch, or None if it is not possible or wanted."""
        exact = self.exact
        if not self._job.device or exact is None or self._reducer is None:
            return None
        from modpkg.compose.torch_reduction import torch_reduction
        from modpkg.compose.torch_sums import torch_sum

        def exactly(places: Any) -> Stored:
            results = exact.at(places)
            self._check(results)
            return results

        job, method = self._job, self._reducer.name
        where, inputs = (job.model, job.device, job.place.dtype, method), (self._blocks, exactly)
        settings = job.computed.settings
        return torch_reduction(*where, *inputs) or torch_sum(*where, settings, *inputs)

    def _low_rank_reduction(self) -> LowRankReduction | None:
        """Return the reduction of a tensor that only products of two matrices are added to."""
        computed, dtype = self._job.computed, self._job.place.dtype
        summed = self._reducer is not None and self._reducer.name == "sum"
        if not summed or computed.rows is not None:
            return None
        if dtype != computed.source.dtype or dtype not in NARROW:
            return None
        factors = self._blocks.low_rank()
        if factors is None or factors.left.shape[1] > MOST_RANK:
            return None
        last = None if self.exact is None else self.exact.at
        return LowRankReduction(dtype, self._blocks.base, factors, self._check, last)

    def _check(self, results: Stored) -> None:
        """Raise the error for results that are not finite."""
        if not all_finite(results, self._job.place.dtype):
            raise ComposeError("M605", model=self._job.model, tensor=self._job.name)

    def _narrow_reduction(self) -> NarrowReduction | None:
        """Return the float32-first reduction of this tensor, or None if it is not possible."""
        reducer, computed = self._reducer, self._job.computed
        others = self._blocks.fine_tunes() if computed.rows is None else None
        if others is None or reducer is None or reducer.single is None:
            return None
        summed = reducer.name == "sum"  # the weights are in the deltas already
        weights = tuple(term.weight if summed else term.scale for term in computed.terms)
        dtype = self._job.place.dtype
        if dtype != computed.source.dtype or not (
            summed or all(term.weight == 1.0 for term in computed.terms)
        ):
            return None
        single = reducer.single(NARROW[dtype], weights, computed.settings)
        if single is None:
            return None
        measured = self._measured[0] if self._measured else None
        if single.cuts(measured, 0) is None:
            return None
        if self.exact is not None:
            given = (reducer.name, computed.terms, computed.settings)
            self._decided = decided_sum(*given, dtype)
            if measured is not None:
                self._decided = decided_merge(*given, measured, dtype)
        return NarrowReduction(dtype, single, measured, self._blocks.base, others, self._at)

    def _at(self, base: Stored, others: Sequence[Stored], places: Any) -> Stored:
        """Return the result at some places, see `modpkg.compose.narrow_floats.Exact`."""
        stored = None
        if self._decided is not None:
            stored, certain = self._decided.at(base, others, places)
            left = np.flatnonzero(~certain)
            if not left.size:
                return stored
            base, *others = (values.take(left) for values in (base, *others))
            places = places[left]
        start, *ends = (in_double(values).reshape(1, -1) for values in (base, *others))
        terms = zip(self._blocks.terms, ends, strict=True)
        contributions = [term.contribution_at(start, end, places) for term, end in terms]
        results = self._reduce(start, contributions, 0, places).reshape(-1)
        if stored is None:
            return results
        stored[left] = results
        return stored

    def _reduce(
        self,
        values: Array,
        contributions: Sequence[Contribution],
        first: int,
        places: Any = None,
    ) -> Stored:
        """Return ``values`` (overwritten) and contributions reduced to one block, rounded.

        The block's elements are those from flat index ``first`` on, or at ``places`` if given.
        Elements that may round otherwise than the exact result are computed exactly.
        """
        dtype, exact = self._job.place.dtype, self.exact
        certified = None if exact is None else Certified(self._blocks, values, contributions)
        if self._reducer is not None:
            doubt = {} if certified is None else certified.doubt(self._reducer)
            values = _call_method(
                self._job,
                self._reducer.reduce,
                values,
                contributions,
                *self._measured,
                **self._arguments,
                **doubt,
            )
        block = rounded(values, dtype)
        if exact is not None and certified is not None:
            bound = certified.bound(self._reducer, self._measured, self._arguments)
            where, zeros = certified.undecided(values, bound, dtype)
            block.reshape(-1)[zeros] = 0
            if where.size:
                doubtful = where + first if places is None else places[where]
                block.reshape(-1)[where] = exact.at(doubtful)
        # Non-finite values of the base itself are allowed where only the dtype changes: some
        # models store attention masks so.
        if not all_finite(block, dtype):
            broken = ~is_finite(block, dtype)
            if self._reducer is not None or np.isfinite(values[broken]).any():
                raise ComposeError("M605", model=self._job.model, tensor=self._job.name)
        return block


def _call_method(job: Job, function: Any, *positional: Any, **named: Any) -> Any:
    """Call a method's function; its ValueError becomes a ComposeError that names the tensor."""
    try:
        return function(*positional, **named)
    except ValueError as error:
        reason = f"method {job.computed.reducer!r} cannot compute {job.name!r}: {error}"
        raise ComposeError("M601", model=job.model, reason=reason) from error
