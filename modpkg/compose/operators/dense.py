"""``dense``: a fine-tune, as its difference from the base.

    delta = x − base

The step's scale interpolates from the base (0) to the fine-tune (1). Ilharco et al. 2023,
https://arxiv.org/abs/2212.04089.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.adapters.formula import BaseRows
from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.dtypes import FLOATS
from modpkg.core.tensors import identity_of

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array


def bind(context: StepContext) -> Effects:
    """Return a term for each tensor of floats.

    Raises:
        ComposeError: The module and the base have different names, shapes, or integer tensors.
    """
    module, base = context.module, context.base
    for one, other in ((module, base), (base, module)):
        if missing := sorted(one.tensors.keys() - other.tensors.keys()):
            raise context.refuse(
                f"step 'dense' names {module.name}, but {one.name} has {missing[0]!r} and "
                f"{other.name} does not"
            )
    tensors = context.on_base()
    terms: dict[str, Term] = {}
    for name, ref in module.tensors.items():
        own = base.tensors[name]
        tensors.expect(name, name, own.shape)
        if own.dtype in FLOATS and ref.dtype in FLOATS:
            terms[name] = Term(op="dense", weight=1.0, inputs={"values": ref})
        elif identity_of(own) != identity_of(ref):
            raise context.refuse(
                f"{name!r} has dtype {ref.dtype} and differs from the one of {base.name}"
            )
    return Effects(terms=terms)


def delta(
    inputs: Mapping[str, Array], term: Term, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows [start, stop) of weight · (x − base)."""
    change = inputs["values"]
    change -= source.peek(start, stop)
    if term.weight != 1.0:
        change *= term.weight
    return change


DENSE = Operator(
    name="dense", bind=bind, delta=delta, arrays=True, by_rows=("values",), becomes="values"
)
