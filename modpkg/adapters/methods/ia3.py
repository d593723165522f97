"""(IA)³: outputs, or the inputs of feed-forward layers, are scaled by a vector.

Liu et al. 2022, https://arxiv.org/abs/2205.05638.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, need
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, check_pattern, strings


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return base · (l − 1) for each weight, and for its bias where outputs are scaled."""
    check_keys(
        adapter, reads=("feedforward_modules", "fan_in_fan_out"), harmless=("init_ia3_weights",)
    )
    inputs = {site.target: _scales_inputs(adapter, site) for site in sites}

    def product(site: Site) -> tuple[int | None, int | None, str]:
        length = math.prod(adapter.shape(site.roles["l"]))
        shape = adapter.target_shape(site.target)
        if len(shape) > 2:
            extent = shape[1] if inputs[site.target] else shape[0]
            if length % extent or (length != extent and not inputs[site.target]):
                raise adapter.misfit(site.roles["l"], site.target, shape)
            groups = length // extent
            if shape[0] % groups:
                raise adapter.misfit(site.roles["l"], site.target, shape)
            return None, None, site.roles["l"]
        if inputs[site.target]:
            return None, length, site.roles["l"]
        return length, None, site.roles["l"]

    matrices = [site for site in sites if len(adapter.target_shape(site.target)) == 2]
    for site in sites:
        product(site)
    ways = transposed(adapter, matrices, product)
    changes = []
    for site in sites:
        columns = inputs[site.target] != ways.get(site.target, False)
        changes.append(
            TensorChange(
                target=site.target,
                op="ia3",
                inputs=dict(site.roles),
                parameters={"columns": True} if columns else {},
            )
        )
        if not inputs[site.target] and site.bias is not None:
            changes.append(TensorChange(target=site.bias, op="ia3", inputs=dict(site.roles)))
    return changes


def _scales_inputs(adapter: Adapter, site: Site) -> bool:
    """Return whether the vector scales what goes in: PEFT's "feed-forward" modules."""
    need(adapter, site, "l")
    shape = adapter.shape(site.roles["l"])
    if len(shape) == 2 and 1 in shape and shape != (1, 1):
        return shape[0] == 1
    modules = adapter.config.get("feedforward_modules")
    if isinstance(modules, str):
        check_pattern(adapter, "feedforward_modules", modules)
        return re.fullmatch(modules, site.path) is not None
    return any(site.path.endswith(name) for name in strings(adapter, "feedforward_modules"))


IA3 = PeftMethod(operator="ia3", parts={"ia3_l": "l"}, bind=bind)
