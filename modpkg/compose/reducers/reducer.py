"""Reducers: merge methods that combine contributions to one tensor into one result."""

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
    """float64 [rows, columns], without the step's scale; read-only."""
    weight: float
    """The step's scale; 1 for methods without weights."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Every parameter of the step, defaults included."""
    key: bytes = b""
    """Selects the random stream: depends on the tensor and the step's inputs, but not on order."""
    first: int = 0
    """Flat index in the tensor of the first element."""
    places: Any = None
    """Flat index of each element, if they are not consecutive from ``first`` on."""
    importance: Array | float = 1.0
    """How much each value counts: float64 like ``delta``, or one number."""


Block = tuple["Array", Sequence[Contribution]]
"""Rows of the base as float64, and the contributions to them; all of one shape."""

ApproximateMagnitudes = tuple[Any, Callable[[Any], "Array"]]
"""Flat magnitudes, float64 or float32 within one unit in the last place, and a function that
returns the exact float64 at given indices of them."""


class Blocks(Protocol):
    """A tensor, or all tensors of a model, read block by block."""

    count: int
    """Number of elements."""
    steps: Sequence[Mapping[str, Any]]
    """Parameters of each step."""

    def __call__(self) -> Iterator[Block]:
        """Yield all blocks, in order."""

    def deltas(self, index: int) -> Iterator[Array]:
        """Yield all rows of one step's delta."""

    def approximate(self, index: int) -> Iterator[ApproximateMagnitudes]:
        """Yield the magnitudes of one step's delta, in order, as exact as is cheap."""

    def sample(self, index: int) -> Array:
        """Return a flat sample of one step's delta, from all over the tensor."""


REQUIRED: Any = inspect.Parameter.empty


class Reducer(Struct, frozen=True, kw_only=True):
    """A registered reducer: entry points of the group ``modpkg.reducers`` name such objects.

    ``reduce(base, contributions, **parameters)`` gets float64 rows of a tensor seen as a matrix
    (first dimension by all others), as numpy arrays, and returns the result's rows as float64. It
    may overwrite ``base``. It must be pure, and its result for a row must not depend on which other
    rows are passed with it.

    A method that needs a property of the whole tensor first (a norm, a threshold) has
    ``measure(blocks, **parameters)``, see `Blocks`. Its result becomes the third argument of
    ``reduce``.
    """

    name: str
    reduce: Callable[..., Array]
    measure: Callable[..., Any] | None = None
    across: bool = False
    """Whether it is measured once over all computed tensors instead of per tensor."""
    parameters: dict[str, Any] = {}
    """Defaults of the method's parameters (`REQUIRED`: none). Values have their default's type."""
    step_parameters: dict[str, Any] = {}
    """Defaults of the parameters that each step may set."""
    bounds: dict[str, tuple[float, float]] = {}
    """Smallest and largest value of numeric parameters."""
    single: (
        Callable[[NarrowFloat, Sequence[float], Mapping[str, Any]], SinglePrecision | None] | None
    ) = None
    """``single(dtype, weights, parameters)``: the method in float32, for fine-tunes of that dtype,
    or None if there is none for these parameters. It must match `reduce` within its bounds."""
    exact: Callable[..., Any] | None = None
    """``exact(base, contributions, **parameters)``: `reduce` at single elements without rounding,
    see `modpkg.compose.exact`; called with what was measured as well, if anything is. ``base`` and
    the deltas are `modpkg.compose.exact_numbers.Exact`, one number for each place."""
    weighted: bool = True
    """Whether steps' scales are weights; a step of weight 0 is then ignored."""
    additive: bool = False
    """Whether equal contributions may be merged by adding their weights."""
    steps: tuple[int, int | None] = (1, None)
    """Minimum and maximum number of steps."""
    everywhere: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether, with these parameters, tensors that no step changes differ from the base's too."""


def reducer(
    name: str, *, step: Mapping[str, Any] | None = None, **options: Any
) -> Callable[[Callable[..., Array]], Reducer]:
    """Decorate a function as a `Reducer`; its keyword-only arguments are the method's parameters.

    An argument named like a Python keyword ends in an underscore (``lambda_``), which manifests
    omit. A parameter without a default is required.
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
    """Return a method's parameters keyed by its function's argument names."""
    names = {name.rstrip("_"): name for name in inspect.signature(reducer.reduce).parameters}
    return {names[key]: value for key, value in parameters.items()}
