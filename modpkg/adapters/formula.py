"""A formula: how the change to a tensor of the base is computed, row by row. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]


class UndefinedChange(Exception):
    """The values of the inputs do not define the change; the text says why."""


class Coefficients(Protocol):
    """What a change is computed with besides its tensors; a term of a composition is one."""

    @property
    def weight(self) -> float:
        """The factor of the whole change."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The formula's own parameters, as binding set them."""


class BaseRows(Protocol):
    """The base's tensor, for formulas that compute on numpy arrays."""

    shape: tuple[int, ...]
    count: int
    """Number of elements."""
    columns: int
    """Columns of the tensor as a matrix (first extent × all others)."""

    def peek(self, start: int, stop: int) -> Array:
        """Return rows of that matrix as float64; they must not be modified."""


class Elements(Struct, frozen=True):
    """Single elements of a tensor, for formulas that are computed in another arithmetic."""

    flat: Any
    """Their flat indices, int64 [k], ascending."""
    columns: int
    """Columns of the tensor as a matrix (first extent × all others)."""
    shape: tuple[int, ...]
    """The tensor's shape."""
    base: Any
    """The base's values there: k numbers of that arithmetic."""
    number: Callable[[Array], Any]
    """Converts float64 to that arithmetic: arrays of numbers, which have +, −, ·, / and `sum`."""

    @property
    def row(self) -> Any:
        """Their rows in the matrix."""
        return self.flat // self.columns

    @property
    def column(self) -> Any:
        """Their columns in the matrix."""
        return self.flat % self.columns


class Extent(Struct, frozen=True):
    """What a bound is computed from, of one input."""

    shape: tuple[int, ...]
    largest: float
    """The largest magnitude; NaN for an input that is read in rows."""


class Error(Struct, frozen=True):
    """A bound of the error of an approximation: absolute + relative · |approximation|."""

    absolute: float = 0.0
    relative: float = 0.0

    def largest(self, other: Error) -> Error:
        """Return a bound of both errors."""
        return Error(max(self.absolute, other.absolute), max(self.relative, other.relative))


class Sizes(Struct, frozen=True):
    """The largest magnitudes of a block."""

    base: float
    delta: float
    """Of what `Formula.delta` returned."""


UNIT = 2.0**-53
"""The unit roundoff of float64: a rounded sum or product is off by at most this much of itself."""
LEAST = 2.0**-1074
"""Where a product underflows, it is off by at most half of this instead."""


def gamma(count: int) -> float:
    """Return Higham's γ_count = count · u / (1 − count · u), rounded up.

    Factors (1 + δ_i) with |δ_i| <= u multiply to 1 + θ with |θ| <= γ, for any order of operations,
    and with fused ones: Accuracy and Stability of Numerical Algorithms, 2002, lemma 3.1.
    """
    return count * UNIT / (1 - count * UNIT) * (1 + 4 * UNIT)


def largest(values: Any) -> float:
    """Return the largest magnitude; NaN if one is NaN, 0 if there are none."""
    if not values.size:
        return 0.0
    return float(max(values.max(), -values.min()))


class Formula(Struct, frozen=True, kw_only=True):
    """The change to one tensor, named by `TensorChange.op`."""

    name: str
    delta: Callable[[Mapping[str, Any], Any, int, int, Any], Any] | None = None
    """``delta(inputs, term, start, stop, source)``: the unrounded change, times ``term.weight``.

    ``inputs`` are the module's tensors by role, as float64 in the shape they have on disk; ``term``
    is a `Coefficients`. ``source`` is the base's tensor, mapped read-only in its own dtype and
    shape. With the tensor seen as a matrix (first extent × all others; a vector is one column),
    it returns rows [start, stop) of the change as float64. The function is pure, and the value of a
    row must not depend on which other rows are requested with it; it may read all of ``source``.
    None for structural operators, which compute nothing.
    """
    arrays: bool = False
    """Whether `delta` and `prepare` take numpy arrays and a `BaseRows` instead of torch tensors.
    A composition that uses only such formulas does not import torch."""
    prepare: Callable[[Mapping[str, Any], Any, Any], Mapping[str, Any]] | None = None
    """``prepare(inputs, term, source)``: the inputs that `delta` gets, computed once per tensor;
    pure as well. Inputs in ``by_rows`` are not among them. It may raise `UndefinedChange`."""
    exact: Callable[[Mapping[str, Any], Any, Elements], Any] | None = None
    """``exact(inputs, term, elements)``: `delta` at single elements, without rounding.

    For changes that are sums of products of the inputs. ``inputs`` are float64 numpy arrays as
    `delta` gets them, or as they were before `prepare` if that rounds; of those in ``by_rows``,
    the values at the elements. Returns numbers of the elements' arithmetic.
    """
    leaves: Callable[[Mapping[str, Any], Any, Elements], Any] | None = None
    """``leaves(inputs, term, elements)``: a mask of elements that keep the base's value where that
    is −0.0 and the change is 0. None: all become +0.0."""
    error: Callable[[Mapping[str, Extent], Any, Sizes], Error] | None = None
    """``error(inputs, term, sizes)``: a bound of the error of each element of `delta`.

    It must hold for any order of the sums, and with fused operations. ``inputs`` are those of
    `exact`. None: not known, so all elements are computed exactly."""
    prepare_rounds: bool = False
    """Whether what `prepare` returns is rounded."""
    factors: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Any, Any] | None] | None = None
    """``factors(inputs, parameters)``: matrices L (stack, height, rank) and R (stack, rank, width).

    weight · L @ R, in C order, is the change to the base's tensor, whose last rows it may lack. For
    formulas on arrays, whose change is such a product; None where it is not.
    """
    null: tuple[str, ...] = ()
    """Inputs that make the change zero if any of them is all zeros."""
    multiplies: bool = False
    """Whether the change is a multiple of the base's tensor. Beside another change to the same
    tensor, both apply to the base, and neither to the result of the other."""
    becomes: str = ""
    """The input that replaces the base's tensor, where `delta` is just weight · (input − base)."""
    by_rows: tuple[str, ...] = ()
    """Inputs of the base's shape of which `delta` gets the requested rows only, as arrays that it
    may overwrite."""


def as_matrix(source: Tensor) -> Tensor:
    """Return a tensor as a matrix, first extent × all others; a vector is one column."""
    return source.reshape(source.shape[0] if source.ndim else 1, -1)


def base_rows(source: Tensor, start: int, stop: int) -> Tensor:
    """Return rows [start, stop) of the base's tensor as a matrix, a copy in float64."""
    rows = as_matrix(source)[start:stop]
    return rows.clone() if rows.is_floating_point() and rows.itemsize == 8 else rows.double()


_ELEMENTS = 1 << 19
"""Elements at once, where all rows of the base are needed."""


def all_rows(source: BaseRows) -> Iterator[tuple[slice, Array]]:
    """Yield the base's rows in blocks, each with its place."""
    rows = source.shape[0] if source.shape else 1
    step = max(1, _ELEMENTS // max(source.columns, 1))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield slice(start, stop), source.peek(start, stop)
