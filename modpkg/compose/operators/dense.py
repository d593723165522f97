"""``dense``: a fine-tune, as what it differs by from the base.

    delta = x − base

The scale of the step goes from the base (0) to the fine-tune (1). Ilharco et al. 2023,
https://arxiv.org/abs/2212.04089.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind as bind_adapter
from modpkg.compose.operators.operator import BaseRows, Effects, Operator, StepContext
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.tensors import identity_of

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


def bind(context: StepContext) -> Effects:
    """Return a term for each tensor of floats that is not the base's own.

    Raises:
        ComposeError: the module has other tensors than the base, or other integers.
        ComposeError: a tensor has another shape.
    """
    module, base = context.module, context.base
    for one, other in ((module, base), (base, module)):
        if left := sorted(one.tensors.keys() - other.tensors.keys()):
            raise ComposeError(
                "M601",
                model=context.model,
                reason=f"step 'dense' names {module.name}, but {one.name} has {left[0]!r} and "
                f"{other.name} does not",
            )
    terms: dict[str, Term] = {}
    for name, ref in module.tensors.items():
        own = base.tensors[name]
        if ref.shape != own.shape:
            raise ComposeError(
                "M604",
                module=module.name,
                tensor=name,
                actual=ref.shape,
                target=name,
                base=base.name,
                expected=own.shape,
            )
        if own.dtype not in FLOATS or ref.dtype not in FLOATS:
            if identity_of(own) == identity_of(ref):
                continue
            raise ComposeError(
                "M601",
                model=context.model,
                reason=f"{name!r} has dtype {ref.dtype} and differs from that of {base.name}",
            )
        terms[name] = Term(op="dense", weight=1.0, inputs={"values": ref})
    return Effects(terms=terms)


def delta(
    inputs: Mapping[str, Array], term: Term, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows ``start`` to ``stop`` of weight · (x − base)."""
    found = inputs["values"]
    found -= source.peek(start, stop)
    if term.weight != 1.0:
        found *= term.weight
    return found


LN_TUNING = Operator(name="ln-tuning", bind=bind_adapter)
"""Norms that were trained whole: Zhao et al. 2023, https://arxiv.org/abs/2312.11420."""
DENSE = Operator(
    name="dense", bind=bind, delta=delta, arrays=True, by_rows=("values",), becomes="values"
)
