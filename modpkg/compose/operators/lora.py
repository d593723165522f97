"""``lora``: a low-rank change.

    delta = scale · alpha / rank · B @ A

with A of shape (rank, in) and B of shape (out, rank); for weights that are stored as (in, out),
as GPT-2's are, the transpose. Hu et al. 2021, https://arxiv.org/abs/2106.09685; with rsLoRA
√rank takes the place of rank: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, Operator, Situation
from modpkg.errors import ComposeError
from modpkg.packs import DTYPE_BYTES
from modpkg.release.binding import bind_lora
from modpkg.release.data import read_json

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = ("F64", "F32", "F16", "BF16")
_CONFIG = "adapter_config.json"


def bind(situation: Situation) -> Effects:
    """Return the adapter's terms by base tensor.

    Raises:
        ComposeError: the module is no adapter, or acts on tensors that are not plain floats.
        AdapterUnsupported, NothingMatches, UnboundTensor, ShapeMismatch: see `bind_lora`.
    """
    module, base = situation.module, situation.base
    if _CONFIG not in module.files:
        raise ComposeError(
            model=situation.model,
            reason=f"step 'lora' names {module.name}, which has no {_CONFIG} and so is no adapter",
        )
    if situation.step.replace:
        raise ComposeError(
            model=situation.model,
            reason=f"step 'lora' of {module.name} has replace, but an adapter replaces nothing",
        )
    terms: dict[str, Term] = {}
    for binding in bind_lora(
        module.name,
        {name: (ref.dtype, ref.shape) for name, ref in module.tensors.items()},
        read_json(module.files[_CONFIG]),
        base.tensors,
        architecture=situation.config.get("model_type"),
        base_name=f"{base.name} {base.version}",
    ):
        inputs = {"a": module.tensors[binding.a], "b": module.tensors[binding.b]}
        for name, ref in ((binding.target, base.tensors[binding.target]), *inputs.items()):
            if ref.dtype not in _FLOATS:
                raise ComposeError(
                    model=situation.model,
                    reason=f"{name!r} has dtype {ref.dtype} "
                    f"({DTYPE_BYTES[ref.dtype]} byte per element), which 'lora' does not add to",
                )
        terms[binding.target] = Term(
            op="lora",
            weight=binding.scale,
            inputs=inputs,
            parameters={"transposed": True} if binding.transposed else {},
        )
    return Effects(terms=terms)


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows ``start`` to ``stop`` of weight · B @ A (of its transpose, if so)."""
    a, b = inputs["a"], inputs["b"]
    if term.parameters.get("transposed"):
        return a[:, start:stop].t().mul(term.weight) @ b.t()
    return b[start:stop].mul(term.weight) @ a


LORA = Operator(name="lora", bind=bind, delta=delta)
