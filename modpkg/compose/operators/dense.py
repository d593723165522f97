"""``dense``: a fine-tune, as its difference from the base.

    delta = x − base

The step's scale interpolates from the base (0) to the fine-tune (1). Ilharco et al. 2023,
https://arxiv.org/abs/2212.04089.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modpkg.adapters.formula import LEAST, BaseRows, Elements, Error, Extent, Sizes, gamma
from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.dtypes import FLOATS
from modpkg.core.filenames import CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.core.same_values import in_terms_of
from modpkg.core.tensors import identity_of

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array


def bind(context: StepContext) -> Effects:
    """Return a term for each tensor of floats.

    Copies of tied tensors and computed buffers may be on one side only, see `in_terms_of`.

    Raises:
        ComposeError: The module and the base have different names, shapes, or integer tensors.
    """
    module, base = context.module, context.base
    config = read_json(module.files[CONFIG]) if CONFIG in module.files else {}
    own_tensors = in_terms_of(module.tensors, base.tensors, config, context.config)
    wanted = in_terms_of(base.tensors, own_tensors, context.config, config)
    for one, other, names in (
        (module, base, own_tensors.keys() - base.tensors.keys()),
        (base, module, wanted.keys() - own_tensors.keys()),
    ):
        if names:
            raise context.refuse(
                f"step 'dense' names {module.name}, but {one.name} has {min(names)!r} and "
                f"{other.name} does not"
            )
    tensors = context.on_base()
    terms: dict[str, Term] = {}
    for name, ref in own_tensors.items():
        own = base.tensors[name]
        if list(ref.shape) != list(own.shape):
            tensors.expect(name, name, own.shape)
        if own.dtype in FLOATS and ref.dtype in FLOATS:
            terms[name] = Term(op="dense", weight=1.0, inputs={"values": ref})
        elif identity_of(own) != identity_of(ref):
            raise context.refuse(
                f"{name!r} has dtype {ref.dtype} and differs from the one of {base.name}"
            )
    left = tuple(ref for name, ref in module.tensors.items() if name not in own_tensors)
    return Effects(terms=terms, unused=left)


def delta(
    inputs: Mapping[str, Array], term: Term, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows [start, stop) of weight · (x − base)."""
    change = inputs["values"]
    change -= source.peek(start, stop)
    if term.weight != 1.0:
        change *= term.weight
    return change


def exact(inputs: Mapping[str, Array], term: Term, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    return (elements.number(inputs["values"]) - elements.base) * term.weight


def error(inputs: Mapping[str, Extent], term: Term, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`: a difference, and a product."""
    return Error(0.0 if term.weight == 1.0 else LEAST, gamma(4))


DENSE = Operator(
    name="dense",
    bind=bind,
    delta=delta,
    exact=exact,
    error=error,
    arrays=True,
    by_rows=("values",),
    becomes="values",
)
