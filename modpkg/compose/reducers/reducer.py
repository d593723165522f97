"""Reducers: merge methods that combine contributions to one tensor into one result."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from modpkg.adapters.formula import LEAST, UNIT, Error, gamma, largest
from modpkg.compose.parameter import REQUIRED, TYPES, Parameter
from modpkg.core.lazy_numpy import np
from modpkg.manifest.schema import IMPORTANCE

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array
    from modpkg.compose.exact_numbers import Exact
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


class ApproximateMagnitudes(NamedTuple):
    """Consecutive magnitudes of a delta, flat."""

    first: int
    """The flat index of the first one."""
    values: Any
    """float64, or float32 within one unit in the last place."""
    exactly: Callable[[Any], Array]
    """Returns the exact float64 at given indices of them."""
    exact: bool = False
    """Whether values up to a bound, and twice it, are the real differences themselves, but for
    those ``apart``."""
    apart: Any = ()
    """Ascending indices."""
    rounded: Any = ()
    """The float64 of those apart that are not the real differences."""


class Blocks(Protocol):
    """A tensor, or all tensors of a model, read block by block."""

    count: int
    """Number of elements."""
    shape: Sequence[int]
    """The tensor's; of a model, its number of elements."""
    steps: Sequence[Mapping[str, Any]]
    """Parameters of each step."""

    @property
    def keys(self) -> Sequence[bytes]:
        """`Contribution.key` of each step; of all tensors of a model there are none."""

    def __call__(self) -> Iterator[Block]:
        """Yield all blocks, in order."""

    def deltas(self, index: int) -> Iterator[Array]:
        """Yield all rows of one step's delta."""

    def approximate(self, index: int, bound: float) -> Iterator[ApproximateMagnitudes]:
        """Yield the magnitudes of one step's delta, in order, as exact as is cheap.

        ``bound`` is that of `ApproximateMagnitudes.exact`.
        """

    def error(self, index: int) -> Error | None:
        """Return a bound of the error of every element of one step's delta; None: not exact."""

    def rounds(self, index: int, places: Any) -> bool:
        """Return whether one step's delta may be rounded at some of these flat indices."""

    def exactly(self, index: int, places: Any) -> Exact:
        """Return one step's delta at some flat indices, ascending, without rounding."""

    def sample(self, index: int) -> Array:
        """Return a flat sample of one step's delta, from all over the tensor."""


class Reach(NamedTuple):
    """A result is base · b + Σ delta_i · d_i: bounds of |b| and of each |d_i|."""

    base: float
    deltas: Sequence[float]


class ExactMethod(Struct, frozen=True):
    """A reducer's method in exact arithmetic, see `modpkg.compose.exact`."""

    compute: Callable[..., Any]
    """``compute(base, contributions, [measured], **parameters)``: the results of single elements,
    without rounding. ``base`` and the deltas are `modpkg.compose.exact_numbers.Exact`, one number
    for each place."""
    reach: Callable[..., Reach | None]
    """``reach(contributions, measured, parameters)``: how much base and deltas count in a block's
    results; None if that is not known."""
    compares: bool = False
    """Whether `Reducer.reduce` takes a ``doubt``, a `Doubt`, in which it notes the elements whose
    comparisons may have another outcome with exact numbers."""
    measures: Callable[[Mapping[str, Any]], bool] = lambda _: False
    """``measures(parameters)``: whether a scalar is measured in float64, in a fixed order. The
    method is then exact only for deltas that are computed alike everywhere: differences of values.
    """


class Doubt:
    """The comparisons of a block whose outcome may be another with exact numbers."""

    def __init__(self, contributions: Sequence[Contribution], errors: Sequence[Error]) -> None:
        """Begin with no element in doubt; ``errors`` are those of the contributions' deltas."""
        self._contributions, self._errors = contributions, list(errors)
        self.mask = np.zeros(contributions[0].delta.shape, np.bool_)

    def divide(self, divisors: Sequence[float]) -> None:
        """Take into account that each delta is divided."""
        self._errors = [
            Error(error.absolute / divisor * 1.001, error.relative + 2 * UNIT)
            for error, divisor in zip(self._errors, divisors, strict=True)
        ]

    def threshold(self, number: int, size: Array, value: float) -> None:
        """Note where the magnitudes of a delta are next to a threshold."""
        error = self._errors[number]
        reach = error.absolute + (error.relative + 4 * UNIT) * value
        self.mask |= np.abs(size - value) <= reach * 1.001

    def signs(self, parts: Sequence[Array]) -> None:
        """Note where the sign of a part is not certain; one that was dropped is 0 for certain."""
        for part, contribution, error in zip(parts, self._contributions, self._errors, strict=True):
            if error.absolute:
                near = np.abs(contribution.delta) <= error.absolute * 1.001
                self.mask |= near & ((part != 0) | (contribution.delta == 0))

    def vote(self, vote: Array, parts: Sequence[Array], weights: Sequence[float]) -> None:
        """Note where the sign of Σ parts may be another; each is 0 or weight · delta.

        Where all parts are 0, what they may be instead is within the bound of the result.
        """
        bound = len(parts) * LEAST
        for part, weight, error in zip(parts, weights, self._errors, strict=True):
            relative = error.relative + gamma(len(parts) + 8)
            bound += abs(weight) * error.absolute * 1.001 + 2 * relative * largest(part)
        near = np.abs(vote) <= bound
        if near.any():
            some = np.zeros_like(near)
            for part in parts:
                some |= part != 0
            self.mask |= near & some


Check = Callable[[Sequence[float], Mapping[str, Any], Sequence[Mapping[str, Any]]], str]


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
    parameters: dict[str, Parameter] = {}
    """The method's settings, and those that each of its steps may have."""
    single: (
        Callable[[NarrowFloat, tuple[float, ...], Mapping[str, Any]], SinglePrecision | None] | None
    ) = None
    """``single(dtype, weights, parameters)``: the method in float32, for fine-tunes of that dtype,
    or None if there is none for these parameters. It must match `reduce` within its bounds."""
    exact: ExactMethod | None = None
    """The method in exact arithmetic, if its results are quotients of sums of products."""
    weighted: bool = True
    """Whether steps' scales are weights; a step of weight 0 is then ignored."""
    additive: bool = False
    """Whether equal contributions may be merged by adding their weights."""
    steps: tuple[int, int | None] = (1, None)
    """Minimum and maximum number of steps; with a maximum, steps of weight 0 count too, unless all
    have it."""
    relative: str = ""
    """The method to take with another number of steps."""
    check: Check | None = None
    """``check(weights, parameters, steps)``: why the weights and settings of a tensor's steps do
    not go together; "" if they do."""
    everywhere: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether, with these parameters, tensors that no step changes differ from the base's too."""

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the method's own parameters (`REQUIRED`: none)."""
        return {key: one.default for key, one in self.parameters.items() if not one.each}

    @property
    def step_defaults(self) -> dict[str, Any]:
        """The defaults of the parameters that each step may set."""
        return {key: one.default for key, one in self.parameters.items() if one.each}


def reducer(
    name: str,
    *,
    step: Mapping[str, Any] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    choices: Mapping[str, tuple[str, ...]] | None = None,
    **options: Any,
) -> Callable[[Callable[..., Array]], Reducer]:
    """Decorate a function as a `Reducer`; its keyword-only arguments are the method's parameters.

    An argument named like a Python keyword ends in an underscore (``lambda_``), which manifests
    omit. A parameter without a default is required; values have the type of the default, or the
    annotated one.

    Args:
        name: The method's name.
        step: Defaults of the parameters that each step may set.
        bounds: Smallest and largest value of numeric parameters.
        choices: The only values of parameters that are strings.
        options: Other fields of the `Reducer`.
    """

    def declared(key: str, default: Any, annotation: Any = "", *, each: bool) -> Parameter:
        least, most = (bounds or {}).get(key, (-math.inf, math.inf))
        kind = float if default is REQUIRED else type(default)
        return Parameter(
            default=default,
            type=TYPES.get(getattr(annotation, "__name__", annotation), kind),
            least=least,
            most=most,
            choices=(choices or {}).get(key, ()),
            each=each,
            module=key == IMPORTANCE,
        )

    def decorate(function: Callable[..., Array]) -> Reducer:
        parameters = {
            (key := parameter.name.rstrip("_")): declared(
                key, parameter.default, parameter.annotation, each=False
            )
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        parameters |= {key: declared(key, value, each=True) for key, value in (step or {}).items()}
        return Reducer(name=name, reduce=function, parameters=parameters, **options)

    return decorate


def as_arguments(reducer: Reducer, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's parameters keyed by its function's argument names."""
    names = _argument_names(reducer.reduce)
    return {names[key]: value for key, value in parameters.items()}


@functools.cache
def _argument_names(function: Callable[..., Array]) -> Mapping[str, str]:
    """Return the names of a function's arguments by those of a method's parameters."""
    return {name.rstrip("_"): name for name in inspect.signature(function).parameters}
