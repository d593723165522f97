"""C3A: a change of circulant blocks.

    delta[m·b + i, n·b + j] = k[m, n, (j − i) mod b] / inputs

Chen et al. 2024, https://arxiv.org/abs/2407.19342.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    LEAST,
    Coefficients,
    Elements,
    Error,
    Extent,
    Formula,
    Sizes,
    gamma,
)
from modpkg.adapters.method import PeftMethod, linear_shape, require
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, ignores=("block_size", "block_size_pattern", "bias"))
    changes = []
    for site in sites:
        require(adapter, site, "kernel")
        out, inner = linear_shape(adapter, site)
        shape = adapter.shape(site.roles["kernel"])
        size = shape[-1] if len(shape) == 3 else 0
        if not size or (shape[0] * size, shape[1] * size) != (out, inner):
            raise adapter.misfit(site.roles["kernel"], site.target, (out, inner))
        changes.append(TensorChange(target=site.target, op="c3a", inputs=dict(site.roles)))
    return changes


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · the circulant blocks."""
    import torch

    kernel = inputs["kernel"].mul(term.weight / source.shape[1])
    size = kernel.shape[2]
    return torch.stack(
        [kernel[row // size].roll(row % size, dims=1).flatten() for row in range(start, stop)]
    )


def exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    kernel, row, column = inputs["kernel"], elements.row, elements.column
    size = kernel.shape[2]
    values = kernel[row // size, column // size, (column - row) % size]
    return elements.number(values) * term.weight / elements.columns


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`."""
    largest = inputs["kernel"].largest
    return Error(gamma(4) * abs(term.weight) * largest + LEAST * (2 + largest))


C3A = PeftMethod(
    peft_type="C3A",
    operator="c3a",
    keys={"c3a_kernel": "kernel"},
    bind=bind,
    formulas=(Formula(name="c3a", delta=delta, exact=exact, error=error, null=("kernel",)),),
)
