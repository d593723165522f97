"""Reducing a tensor with torch on a device: the same bytes as everywhere, proven per element.

A block of the result is computed in float64, in whatever order the device adds. What it is off from
the exact real result X is bounded (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
section 3.1): with u = 2⁻⁵³, a sum of k products, in any order and with or without fused
multiply-adds, is within γ_k = k·u / (1 − k·u) of X, times the sum of the magnitudes of its terms.

So two floats low <= X <= high are known, and as rounding is monotonic, X rounds to what both round
to. Where they differ, the element is in doubt, and computed exactly on the CPU.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from modpkg.compose.arrays import Array, Stored, widened
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.doubt import doubtful
from modpkg.compose.mapping import TORCH_DTYPES
from modpkg.compose.memory import DEVICE_ELEMENT_BYTES, DEVICE_ELEMENTS
from modpkg.compose.rounding import is_finite, rounded
from modpkg.compose.rows import RowReader
from modpkg.compose.sums import SPARE
from modpkg.compose.torch_threads import use_one_thread
from modpkg.core import system
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError

Exact = Callable[[Any], Stored]
"""``exact(places)``: the result at flat indices, ascending, as stored."""

DTYPES = ("BF16", "F16", "F32")
"""Results whose rounding a float64 nearly always decides."""

UNIT = 2.0**-53
_WIDER = 2.0**-22
"""low and high are a float32 times 1 ∓ this, which moves it by at least two units in the last
place, if rounding to float32 and the float64's error are at most one."""
_SMALLEST = 2.0**-100
"""Smaller magnitudes are in doubt: float32 is not normal, or would not be after a product."""
_UNDERFLOW = 2.0**-1000
"""More than what products that underflow add to an error."""
_LARGEST = {"BF16": 2.0**127, "F16": 2.0**15, "F32": 2.0**127}
"""Larger magnitudes are in doubt: they might round to infinity."""


class Product(NamedTuple):
    """A term: weight · left @ right, of float64 arrays (stack, height, rank) and (stack, rank,
    width)."""

    left: Array
    right: Array
    weight: float


class TorchReduction:
    """The base plus a sum of products, iterated in blocks like `modpkg.compose.tensor.Reduction`.

    A block is valid until the next one is asked for.
    """

    def __init__(
        self,
        base: RowReader,
        dtype: str,
        products: Sequence[Product],
        exact: Exact,
        device: torch.device,
        model: str,
    ) -> None:
        """Bring the factors to the device.

        Args:
            base: The base's tensor.
            dtype: The result's dtype, one of `DTYPES`.
            products: At least one; all of one stack, height and width, see `fits`.
            exact: Gives the elements that are in doubt.
            device: Where to compute.
            model: The model's name, for errors.
        """
        self._model = model
        self._base, self._dtype, self._exact, self._device = base, dtype, exact, device
        self._products = [
            (each.left * each.weight, np.ascontiguousarray(each.right.swapaxes(1, 2)))
            for each in products
        ]
        with using_device(self._device, self._model):
            self._lefts = [_moved(left, device) for left, _ in self._products]
            self._rights = [_moved(each.right, device) for each in products]
        given = [each for product in products for each in (product.left, np.array(product.weight))]
        made = [factor for pair in self._products for factor in pair]
        self._short = all(map(_is_single, (*given, *made)))
        """Whether a product of three factors is exact in float64."""
        self._stack, _, self._width = self._rights[0].shape
        self._height = base.count // (self._stack * self._width)
        terms = sum(right.shape[1] for right in self._rights)
        self._share = 2 * (terms + len(products) + SPARE) * UNIT
        """Twice γ, times which the sum of magnitudes bounds the error."""

    def __iter__(self) -> Iterator[Stored]:
        rows = max(1, min(self._height, elements_of(self._device) // self._width))
        with using_device(self._device, self._model):
            buffers = Buffers(rows * self._width, self._base.ref.dtype, self._dtype, self._device)
        for matrix in range(self._stack):
            for start in range(0, self._height, rows):
                yield self._block(matrix, start, min(start + rows, self._height), buffers)

    def _block(self, matrix: int, start: int, stop: int, buffers: Buffers) -> Stored:
        first = (matrix * self._height + start) * self._width
        count = (stop - start) * self._width
        self._base.fill(buffers.read(count), first)
        with using_device(self._device, self._model):
            base = buffers.on_device(count).view(stop - start, self._width)
            # Of each row: the magnitudes of its base's and its terms' largest elements, added up.
            reach = torch.linalg.vector_norm(base, float("inf"), dim=1).double()
            values = base.double()
            for left, right in zip(self._lefts, self._rights, strict=True):
                part, most = left[matrix, start:stop], right[matrix]
                values.addmm_(part, most)
                reach += part.abs() @ torch.linalg.vector_norm(most, float("inf"), dim=1)
            bits, doubt = rounded_within(values, reach.mul_(self._share), self._dtype)
            buffers.write(bits)
            where = torch.nonzero(doubt.view(-1)).view(-1).cpu().numpy()
        stored = buffers.written(count)
        if where.size:
            source = buffers.read(count)[where]
            stored[where] = self._settled(matrix, start, where, source, where + first)
        return stored

    def _settled(self, matrix: int, start: int, where: Any, source: Stored, places: Any) -> Stored:
        """Return results that are in doubt: from a bound of each, or exactly.

        Args:
            start: The block's first row.
            where: Places in the block, ascending, and ``places`` in the tensor.
            source: The base's values there, as stored.
        """
        rows, columns = where // self._width + start, where % self._width
        terms = np.concatenate(
            [widened(source, self._base.ref)[:, np.newaxis]]
            + [left[matrix, rows] * right[matrix, columns] for left, right in self._products],
            axis=1,
        )
        values = terms.sum(axis=1)
        values += 0.0  # −0.0 becomes 0.0
        result = rounded(values, self._dtype)
        bound = np.abs(terms).sum(axis=1) * self._share
        bound[bound > 0] += _UNDERFLOW
        doubt = doubtful(values, bound, self._dtype)
        where = np.flatnonzero(doubt | ~is_finite(result, self._dtype))
        if where.size and self._short:  # ties are common: these sums are often exact
            sums, certain = _exact_sums(terms[where])
            result[where] = rounded(sums, self._dtype)
            where = where[~(certain & is_finite(result[where], self._dtype))]
        if where.size:
            result[where] = self._exact(places[where])
        return result


@contextlib.contextmanager
def using_device(device: torch.device, model: str) -> Iterator[None]:
    """Run a part on a device; what it began is complete afterwards.

    Each thread has a stream of its own, so that copies and sums of several overlap.

    Raises:
        ComposeError: The device fails, or has too little memory.
    """
    try:
        if device.type == "cpu":
            use_one_thread()
            yield
            return
        with torch.cuda.stream(_stream(device)):
            yield
            torch.cuda.current_stream(device).synchronize()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ComposeError("M858", model=model, device=str(device), reason=reason) from error


_local = threading.local()


def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return this thread's stream."""
    streams: dict[torch.device, torch.cuda.Stream] = vars(_local).setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return streams[device]


@functools.cache
def elements_of(device: torch.device) -> int:
    """Return the elements of a block: of all threads, they take at most half of what is free."""
    most = DEVICE_ELEMENTS[device.type]
    if device.type == "cpu":
        return most
    free, _ = torch.cuda.mem_get_info(device)
    return min(most, free // (2 * DEVICE_ELEMENT_BYTES * system.available_cores()))


def _is_single(array: Array) -> bool:
    with np.errstate(over="ignore"):
        return bool((array == array.astype(np.float32)).all())


def _exact_sums(terms: Array) -> tuple[Array, Any]:
    """Return the sums of rows, −0.0 as 0.0, and a mask of those that no addition rounded.

    What each addition is off is a float64 itself: TwoSum, Knuth, The Art of Computer Programming,
    volume 2, section 4.2.2.
    """
    total, certain = terms[:, 0] + 0.0, np.ones(len(terms), np.bool_)
    for term in terms[:, 1:].T:
        more = total + term
        part = more - total
        certain &= (total - (more - part)) + (term - part) == 0
        total = more
    return total, certain


def _moved(array: Array, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def torch_reduction(
    model: str, device: str, dtype: str, method: str, blocks: TensorBlocks, exact: Exact
) -> TorchReduction | None:
    """Return the reduction of a tensor by a method on a device; None if it is none of these here.

    See `TorchReduction` for the others.
    """
    base = blocks.base
    if method != "sum" or dtype not in DTYPES or base.ref.dtype not in FLOATS:
        return None
    products = []
    for term in blocks.terms:
        factors = term.factors()
        if factors is None or any(ref.dtype == "F64" for ref in term.term.inputs.values()):
            return None  # nobody has such adapters, and their products are longer
        products.append(Product(*factors, term.term.weight))
    if not fits(base, products):
        return None
    return TorchReduction(base, dtype, products, exact, torch.device(device), model)


def fits(base: RowReader, products: Sequence[Product]) -> bool:
    """Return whether products cover the base's tensor, all in the same matrices."""
    shapes = {(*each.right.shape[::2], each.left.shape[0]) for each in products}
    if len(shapes) != 1 or not base.count:
        return False
    stack, width, again = shapes.pop()
    height, rest = divmod(base.count, max(stack * width, 1))
    return (
        stack == again
        and not rest
        and all(each.left.shape[1] == height for each in products)
        and all(each.left.shape[2] == each.right.shape[1] for each in products)
    )


def rounded_within(
    values: torch.Tensor, bound: torch.Tensor, dtype: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rounded results, and a mask of those in doubt.

    Args:
        values: float64 (rows, columns); overwritten.
        bound: float64 by row: at least twice what a value may be off.
        dtype: One of `DTYPES`. A value that is certain rounds to what is returned for it.
    """
    low, high, doubt = bracketed(values, bound.unsqueeze(1), dtype)
    doubt |= low.ne(high)
    return low, doubt


def bracketed(
    values: torch.Tensor, bound: torch.Tensor, dtype: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what two numbers around each result round to, and a mask: where that is not sure.

    ``bound`` broadcasts, see `rounded_within`.
    """
    into = TORCH_DTYPES[dtype]
    values += 0.0  # −0.0 becomes 0.0
    if dtype == "F32":
        low, high = (values - bound).float(), values.add_(bound).float()
        size, least = low.abs(), bound
    else:
        single = values.float()
        size = single.abs()
        low, high = single.mul(1 - _WIDER).to(into), single.mul_(1 + _WIDER).to(into)
        # |X − single| is at most half a unit in the last place of float32 and the error, which is
        # at most as much where |single| is 2²⁵ times it.
        least = bound * 2.0**25
    # Where the bound is 0, so is each term.
    doubt = size.lt(torch.where(bound > 0, least.clamp(min=_SMALLEST), 0.0).float())
    doubt |= size.le(_LARGEST[dtype]).logical_not_()  # NaN too
    return low, high, doubt


class Buffers:
    """Host memory that a device copies from and to while the CPU does other work."""

    def __init__(self, count: int, read: str, written: str | None, device: torch.device) -> None:
        """Allocate for blocks of ``count`` elements of a stored dtype, and results of another."""
        pinned = device.type == "cuda"
        self._device = device
        self._in = torch.empty(count, dtype=TORCH_DTYPES[read], pin_memory=pinned)
        size, into = (count, written) if written else (0, read)
        self._out = torch.empty(size, dtype=TORCH_DTYPES[into], pin_memory=pinned)
        self._stored_in, self._stored_out = _stored(self._in), _stored(self._out)

    def read(self, count: int) -> Stored:
        """Return the memory to read ``count`` elements into."""
        return self._stored_in[:count]

    def on_device(self, count: int) -> torch.Tensor:
        """Return what was read, on the device."""
        return self._in[:count].to(self._device, non_blocking=True)

    def write(self, result: torch.Tensor) -> None:
        """Begin to copy a result back."""
        self._out[: result.numel()].copy_(result.view(-1), non_blocking=True)

    def written(self, count: int) -> Stored:
        """Return the first elements of what was copied back."""
        return self._stored_out[:count]


def _stored(tensor: torch.Tensor) -> Stored:
    """Return a view of the tensor as stored: its bits, where numpy has no such dtype."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()
