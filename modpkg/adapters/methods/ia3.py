"""(IA)³: scales a weight's outputs, or the inputs of feed-forward layers, by a vector.

    delta = W · (l − 1)

Liu et al. 2022, https://arxiv.org/abs/2205.05638.
"""

from __future__ import annotations

import math
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
    base_rows,
    gamma,
)
from modpkg.adapters.method import PeftMethod, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.patterns import Work
from modpkg.adapters.peft_config import check_keys, matches_module, strings

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight, and to its bias where outputs are scaled."""
    check_keys(
        adapter, reads=("feedforward_modules", "fan_in_fan_out"), ignores=("init_ia3_weights",)
    )
    work = Work()
    scales_inputs = {site.target: _scales_inputs(adapter, site, work) for site in sites}

    def scaled_shape(site: Site) -> tuple[int | None, int | None, str]:
        length = math.prod(adapter.shape(site.roles["l"]))
        shape = adapter.target_shape(site.target)
        if len(shape) > 2:
            extent = shape[1] if scales_inputs[site.target] else shape[0]
            if (
                not length
                or length % extent
                or (length != extent and not scales_inputs[site.target])
            ):
                raise adapter.misfit(site.roles["l"], site.target, shape)
            groups = length // extent
            if shape[0] % groups:
                raise adapter.misfit(site.roles["l"], site.target, shape)
            return None, None, site.roles["l"]
        if scales_inputs[site.target]:
            return None, length, site.roles["l"]
        return length, None, site.roles["l"]

    for site in sites:
        scaled_shape(site)
    matrices = [site for site in sites if len(adapter.target_shape(site.target)) == 2]
    ways = transposed(adapter, matrices, scaled_shape)
    changes = []
    for site in sites:
        columns = scales_inputs[site.target] != ways.get(site.target, False)
        changes.append(
            TensorChange(
                target=site.target,
                op="ia3",
                inputs=dict(site.roles),
                parameters={"columns": True} if columns else {},
            )
        )
        if not scales_inputs[site.target] and site.bias is not None:
            changes.append(TensorChange(target=site.bias, op="ia3", inputs=dict(site.roles)))
    return changes


def _scales_inputs(adapter: Adapter, site: Site, work: Work) -> bool:
    """Return whether the vector scales a site's inputs: it is one of PEFT's feed-forward modules.

    Its shape decides, (1, in) or (out, 1), and ``feedforward_modules`` where that is ambiguous.
    """
    require(adapter, site, "l")
    shape = adapter.shape(site.roles["l"])
    if len(shape) == 2 and 1 in shape and shape != (1, 1):
        return shape[0] == 1
    return is_feedforward(adapter, site.path, work)


def is_feedforward(adapter: Adapter, path: str, work: Work) -> bool:
    """Return whether ``feedforward_modules`` names a module."""
    modules = adapter.config.get("feedforward_modules")
    if isinstance(modules, str):
        return matches_module(adapter, "feedforward_modules", modules, path, work)
    return any(path.endswith(name) for name in strings(adapter, "feedforward_modules"))


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · W · (l − 1), l for each row or for each column.

    A grouped convolution has columns for the inputs of one group only: which part of l applies
    depends on the row.
    """
    scale, weight = inputs["l"].flatten() - 1.0, term.weight
    block = base_rows(source, start, stop)
    if not term.parameters.get("columns"):
        return block.mul_(scale[start:stop].unsqueeze(1)).mul_(weight)
    if source.ndim <= 2:
        return block.mul_(scale).mul_(weight)
    out, inner = source.shape[:2]
    scale = scale.view(-1, inner).repeat_interleave(out // (scale.numel() // inner), 0)
    kernel = block.shape[1] // inner
    return block.mul_(scale[start:stop].repeat_interleave(kernel, 1)).mul_(weight)


def exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    scale, place = inputs["l"].reshape(-1), elements.row
    if term.parameters.get("columns"):
        place = elements.column
        if len(elements.shape) > 2:
            out, inner = elements.shape[:2]
            place //= elements.columns // inner
            each = out // (len(scale) // inner)
            place += elements.row // each * inner
    number = elements.number(scale[place])
    return elements.base * (number - number.ones()) * term.weight


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`."""
    return Error(LEAST * (2 + abs(term.weight)), gamma(6))


IA3 = PeftMethod(
    peft_type="IA3",
    operator="ia3",
    keys={"ia3_l": "l"},
    bind=bind,
    formulas=(Formula(name="ia3", delta=delta, exact=exact, error=error, multiplies=True),),
)
