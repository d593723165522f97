"""Making one tensor: the job that a worker does, in a thread or in another process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from modpkg.compose.composition import Made
from modpkg.compose.mapping import TORCH_DTYPES
from modpkg.compose.reducers import Reducer, as_arguments, find_reducer
from modpkg.compose.rounding import round_into
from modpkg.compose.rows import TensorBlocks
from modpkg.digests import Digest, digest_file
from modpkg.errors import ComposeError, NotFinite, StoreDamaged
from modpkg.packs import PackTensor


class Job(Struct, frozen=True, kw_only=True):
    """One tensor to make, with all that a worker needs to know; can be pickled."""

    model: str
    name: str
    made: Made
    file: str
    """The pack, at its full length already."""
    place: PackTensor
    """Where in it the result goes."""
    measured: Any = None
    """What the reducer measured over the model, if it is one of those."""


def make_tensor(job: Job) -> Digest:
    """Compute a tensor block by block into its place, and return the digest of its bytes.

    Everything is summed in float64 and rounded once. What goes in is hashed first: it may have lain
    here for years, and what is made of damaged bytes would count as sound.

    Raises:
        NotFinite: the result has NaN or infinity. PackError: an input cannot be read.
        StoreDamaged: an input is not what it was when it was fetched.
        ComposeError: the method cannot do with these values.
    """
    torch.set_num_threads(1)
    place = job.place
    state = hashlib.sha256()
    for ref in job.made.inputs():
        if digest_file(Path(ref.file), ref.offset, ref.length) != ref.digest:
            raise StoreDamaged(what=f"What {job.name!r} of {job.model} is made of", path=ref.file)
    if place.length:
        blocks = TensorBlocks(job.model, job.name, job.made)
        reduction = Reduction(job, blocks)
        # Reused for all blocks: fresh memory costs more than what is computed in it.
        dtype = TORCH_DTYPES[place.dtype]
        width = blocks.columns * dtype.itemsize
        scratch = bytearray(blocks.height * width)
        out = torch.frombuffer(scratch, dtype=dtype).view(-1, blocks.columns)
        with open(job.file, "r+b", buffering=0) as file:
            file.seek(place.offset)
            for start, stop in blocks.ranges():
                reduction.block(out[: stop - start], start, stop)
                data = memoryview(scratch)[: (stop - start) * width]
                state.update(data)
                while data:
                    data = data[file.write(data) :]
    return Digest("sha256:" + state.hexdigest())


class Reduction:
    """How the rows of one tensor become those of the result."""

    def __init__(self, job: Job, blocks: TensorBlocks) -> None:
        made = job.made
        self._job, self._blocks = job, blocks
        self._reducer: Reducer | None = None
        self._measured: tuple[Any, ...] = ()
        if made.terms or made.settings:
            self._reducer = find_reducer(made.reducer, job.model)
            self._arguments = as_arguments(self._reducer, made.settings)
            if self._reducer.measure is not None:
                self._measured = (job.measured,)
                if not self._reducer.across:
                    self._measured = (_said(job, self._reducer.measure, blocks, **self._arguments),)

    def block(self, out: torch.Tensor, start: int, stop: int) -> None:
        """Write rows ``start`` to ``stop`` of the result into ``out``."""
        source = self._blocks.source[start:stop]
        if self._reducer is None and source.dtype != torch.float64:
            out.copy_(source)  # a conversion is one rounding already
        else:
            values = self._blocks.base(start, stop)
            if self._reducer is not None:
                changes = self._blocks.changes(start, stop)
                values = _said(
                    self._job,
                    self._reducer.reduce,
                    values,
                    changes,
                    *self._measured,
                    **self._arguments,
                )
            round_into(out, values)
        # NaN and infinity show in the extremes. Those that a base has itself may stay when only
        # the dtype changes: attention masks are kept so.
        low, high = torch.aminmax(out)
        if not torch.isfinite(high - low) and not torch.isfinite(out).all():
            broken = ~torch.isfinite(out)
            if self._reducer is not None or torch.isfinite(source[broken]).any():
                raise NotFinite(model=self._job.model, tensor=self._job.name)


def _said(job: Job, function: Any, *positional: Any, **named: Any) -> Any:
    """Return what a method's function returns; its ValueError names the tensor."""
    try:
        return function(*positional, **named)
    except ValueError as error:
        reason = f"method {job.made.reducer!r} cannot make {job.name!r}: {error}"
        raise ComposeError(model=job.model, reason=reason) from error
