"""Making one tensor: the job that a worker does, in a thread or in another process."""

from __future__ import annotations

import hashlib
import mmap

import torch
from msgspec import Struct

from modpkg.compose.composition import Made, Term
from modpkg.compose.mapping import TORCH_DTYPES, map_tensors
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import find_reducer
from modpkg.compose.rounding import round_into
from modpkg.digests import Digest
from modpkg.errors import NotFinite, UnknownOperator
from modpkg.installed import TensorRef
from modpkg.packs import PackTensor

BLOCK_ELEMENTS = 1 << 19
"""Elements of a row block: a float64 block is 4 MiB. Smaller ones were slower here: every block
costs some dozen calls, for which threads wait on each other.

It is a constant, because a matrix product may round differently in blocks of another height."""


class Job(Struct, frozen=True, kw_only=True):
    """One tensor to make, with all that a worker needs to know; can be pickled."""

    model: str
    name: str
    made: Made
    file: str
    """The pack, at its full length already."""
    place: PackTensor
    """Where in it the result goes."""


def make_tensor(job: Job) -> Digest:
    """Compute a tensor block by block into its place, and return the digest of its bytes.

    Everything is summed in float64 and rounded once.

    Raises:
        NotFinite: the result has NaN or infinity. PackError: an input cannot be read.
    """
    torch.set_num_threads(1)
    made, place = job.made, job.place
    state = hashlib.sha256()
    if place.length:
        base = _map(made.source)
        source = _matrix(base)
        terms = [(term, _inputs(term)) for term in made.terms]
        # A mapping begins at a multiple of the page size (of 64 KiB on Windows).
        skip = place.offset % mmap.ALLOCATIONGRANULARITY
        with (
            open(job.file, "r+b") as file,
            mmap.mmap(file.fileno(), skip + place.length, offset=place.offset - skip) as mapping,
            memoryview(mapping) as whole,
            whole[skip:] as window,
        ):
            out = torch.frombuffer(window, dtype=TORCH_DTYPES[place.dtype]).view(source.shape)
            rows, columns = source.shape
            step = max(1, BLOCK_ELEMENTS // columns)
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                _make_block(job, out[start:stop], base, source[start:stop], terms, start, stop)
                width = columns * out.element_size()
                state.update(window[start * width : stop * width])
            del out  # the mapping cannot be closed while a tensor lies in it
    return Digest("sha256:" + state.hexdigest())


def _make_block(
    job: Job,
    out: torch.Tensor,
    base: torch.Tensor,
    source: torch.Tensor,
    terms: list[tuple[Term, dict[str, torch.Tensor]]],
    start: int,
    stop: int,
) -> None:
    """Write rows ``start`` to ``stop`` of the result into ``out``; ``source`` is those of base."""
    if not terms and source.dtype != torch.float64:
        out.copy_(source)  # a conversion is one rounding already
    else:
        values = source.double() if source.dtype != torch.float64 else source.clone()
        deltas = []
        for term, inputs in terms:
            delta = find_operator(term.op, job.model).delta
            if delta is None:
                raise UnknownOperator(where=job.model, op=term.op, known="those with a delta")
            deltas.append(delta(inputs, term, start, stop, base).view(values.shape))
        if deltas:
            values = find_reducer(job.made.reducer, job.model)(values, deltas)
        round_into(out, values)
    # NaN and infinity show in the extremes. Those that a base has itself may stay when only the
    # dtype changes: attention masks are kept so.
    low, high = torch.aminmax(out)
    if not torch.isfinite(high - low) and not torch.isfinite(out).all():
        broken = ~torch.isfinite(out)
        if terms or torch.isfinite(source[broken]).any():
            raise NotFinite(model=job.model, tensor=job.name)


def _map(ref: TensorRef) -> torch.Tensor:
    return map_tensors([(ref.file, ref)])[ref.file]


def _inputs(term: Term) -> dict[str, torch.Tensor]:
    return {role: _map(ref).double() for role, ref in term.inputs.items()}


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with its first extent as rows and all others as columns.

    A vector has one column, so that long ones are cut into blocks too.
    """
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1)
