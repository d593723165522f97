"""What a reducer is: how the changes to one tensor become one result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array
    from modpkg.compose.reducers.single import NarrowFloat, SinglePrecision


@dataclass(frozen=True)
class Contribution:
    """Rows of what one step adds to a tensor."""

    delta: Array
    """float64, without the step's scale; not to be changed."""
    weight: float
    """The step's scale; 1 where the method has no use for it."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The step's, each with a value."""
    key: bytes = b""
    """Names what the change is made of and the tensor: the same whatever the place or order."""
    first: int = 0
    """Of the tensor's elements, the one that these rows begin with."""
    places: Any = None
    """Where these elements are in the tensor, one by one, if they are not all from ``first`` on."""
    importance: Array | float = 1.0
    """How much each value counts: float64 rows, or a number for all."""


Block = tuple["Array", Sequence[Contribution]]
"""Rows of the base as float64, and the contributions to them; all of one shape."""

ApproximateMagnitudes = tuple[Any, Callable[[Any], "Array"]]
"""Magnitudes, flat: float64, or float32 that are at most one step from the float64 rounded to them;
and what returns the float64 at some of their places."""


class Blocks(Protocol):
    """A tensor, or all of a model, that is gone through block by block."""

    count: int
    """Elements in all."""
    steps: Sequence[Mapping[str, Any]]
    """Parameters of each change."""

    def __call__(self) -> Iterator[Block]:
        """Yield all rows, in order."""

    def deltas(self, index: int) -> Iterator[Array]:
        """Yield all rows of one change."""

    def rough(self, index: int) -> Iterator[ApproximateMagnitudes]:
        """Yield the magnitudes of one change, in order, as far as they are cheap to have."""

    def sample(self, index: int) -> Array:
        """Return some of its values, flat, from all over the tensor."""


REQUIRED: Any = inspect.Parameter.empty


class Reducer(Struct, frozen=True, kw_only=True):
    """A registered reducer: entry points of the group ``modpkg.reducers`` name such objects.

    ``reduce(base, changes, **parameters)`` gets float64 rows of a tensor seen as a matrix (first
    extent × all others), as arrays of numpy, and returns the result's, float64. It may overwrite
    ``base``. It is pure, and what it returns for a row must not depend on which other rows come
    with it.

    A method that has to know something of the whole tensor first (a norm, a threshold) has
    ``measure(blocks, **parameters)``, see `Blocks`. What it returns becomes the third argument of
    ``reduce``.
    """

    name: str
    reduce: Callable[..., Array]
    measure: Callable[..., Any] | None = None
    across: bool = False
    """Whether it is measured over all tensors that are made, and not over each."""
    parameters: dict[str, Any] = {}
    """The method's parameters and their defaults (`REQUIRED`: none); their types are theirs."""
    step_parameters: dict[str, Any] = {}
    """Likewise for those that each step may have its own of."""
    bounds: dict[str, tuple[float, float]] = {}
    """Least and most of a number."""
    single: (
        Callable[[NarrowFloat, Sequence[float], Mapping[str, Any]], SinglePrecision | None] | None
    ) = None
    """``single(dtype, weights, parameters)``: the method in float32, for fine-tunes so narrow; None
    where it is not to be had for these. It must return what `reduce` returns as far as it says."""
    weighted: bool = True
    """Whether steps' scales are weights, of which 0 is as if the step were not there."""
    additive: bool = False
    """Whether equal changes are as one with the sum of their weights."""
    steps: tuple[int, int | None] = (1, None)
    """Least and most steps."""
    everywhere: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether tensors that no step changes are not the base's all the same."""


def reducer(
    name: str, *, step: Mapping[str, Any] | None = None, **options: Any
) -> Callable[[Callable[..., Array]], Reducer]:
    """Make a `Reducer` of a function; its keyword-only arguments are the method's parameters.

    An argument that is called like a word of Python has an underscore at its end (``lambda_``),
    which the manifest leaves out. A parameter without a default is required.
    """

    def decorate(function: Callable[..., Array]) -> Reducer:
        parameters = {
            parameter.name.rstrip("_"): parameter.default
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        return Reducer(
            name=name,
            reduce=function,
            parameters=parameters,
            step_parameters=dict(step or {}),
            **options,
        )

    return decorate


def as_arguments(reducer: Reducer, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's parameters by the names of its function's arguments."""
    names = {name.rstrip("_"): name for name in inspect.signature(reducer.reduce).parameters}
    return {names[key]: value for key, value in parameters.items()}
