"""HiRA: a low-rank matrix, multiplied element-wise with the weight.

    delta = W ⊙ (B @ A)

For embeddings, W ⊙ (B @ A)ᵀ; for convolutions, A and B are flattened to matrices. Huang et al.
2025, https://openreview.net/forum?id=TwJrTz9cRS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    LEAST,
    Coefficients,
    Elements,
    Error,
    Extent,
    Formula,
    Sizes,
    base_rows,
    gamma,
)
from modpkg.adapters.method import (
    PeftMethod,
    linear_shape,
    matrix_shape,
    product_shape,
    require,
)
from modpkg.adapters.methods.lora import product
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from torch import Tensor

_EMBEDDING = {"embedding_A": "a", "embedding_B": "b"}
"""Roles in the formula, by those of an embedding's tensors."""
_SCALING = ("minicpm3",)
"""Architectures that scale their embeddings, beside Gemma's and those that are configured to."""


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(
        adapter, reads=("fan_in_fan_out",), ignores=("r", "rank_pattern", "hira_dropout", "bias")
    )

    layers = [site for site in sites if not site.roles.keys() & _EMBEDDING.keys()]
    ways = transposed(adapter, layers, lambda site: _shape(adapter, site))
    changes = []
    for site in sites:
        inputs = dict(site.roles)
        if site not in layers:
            inputs = _of_embedding(adapter, site)
        turned = ways.get(site.target, True)
        changes.append(
            TensorChange(
                target=site.target,
                op="hira",
                inputs=inputs,
                parameters={"transposed": True} if turned else {},
            )
        )
    return changes


def _shape(adapter: Adapter, site: Site) -> tuple[int, int, str]:
    """Return (out, in) of B @ A, flattened for a convolution, and the name of B."""
    if len(shape := adapter.target_shape(site.target)) <= 2:
        linear_shape(adapter, site)
        return product_shape(adapter, site)
    require(adapter, site, "a", "b")
    a, b = site.roles["a"], site.roles["b"]
    rank = (*adapter.shape(a), 0)[0]
    adapter.expect(a, site.target, (rank, *shape[1:]))
    adapter.expect(b, site.target, (shape[0], rank, *(1 for _ in shape[2:])))
    return shape[0], math.prod(shape[1:]), b


def _of_embedding(adapter: Adapter, site: Site) -> dict[str, str]:
    """Return the factors of an embedding's change, by their role in the formula."""
    require(adapter, site, *_EMBEDDING)
    if _scales_embeddings(adapter):
        raise adapter.refuse(
            f"{site.target!r} is an embedding that its model scales, and PEFT adds HiRA's part to "
            "it unscaled when it runs, and scaled when it merges"
        )
    rows, width = linear_shape(adapter, site)
    inputs = {role: site.roles[key] for key, role in _EMBEDDING.items()}
    rank, _ = matrix_shape(adapter, inputs["a"])
    adapter.expect(inputs["a"], site.target, (rank, rows))
    adapter.expect(inputs["b"], site.target, (width, rank))
    return inputs


def _scales_embeddings(adapter: Adapter) -> bool:
    """Return whether the base multiplies its embeddings with a number."""
    parts = (part for part in adapter.model_config.values() if isinstance(part, dict))
    kinds = [adapter.architecture, *(part.get("model_type") for part in parts)]
    tables = (adapter.model_config, *adapter.model_config.values())
    return any(isinstance(table, dict) and table.get("scale_embedding") for table in tables) or any(
        kind in _SCALING or "gemma" in str(kind) for kind in kinds
    )


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · W ⊙ (B @ A)."""
    change: Tensor = product(inputs, term, start, stop, term.weight)
    return change.mul_(base_rows(source, start, stop))


def exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    return low_rank.exact(inputs, term, elements) * elements.base


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`."""
    return Error(low_rank.size_of(inputs, term.weight)[1] * sizes.base * 1.001 + LEAST, gamma(4))


HIRA = PeftMethod(
    peft_type="HIRA",
    operator="hira",
    keys={"hira_A": "a", "hira_B": "b", **{f"hira_{key}": key for key in _EMBEDDING}},
    bind=bind,
    formulas=(
        Formula(
            name="hira",
            delta=delta,
            exact=exact,
            error=error,
            null=("a", "b"),
            multiplies=True,
        ),
    ),
)
