"""Whether a weight is stored as (out, in) or as (in, out)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from modpkg.adapters.changes import Adapter, Site

_CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Architectures whose blocks store their linear layers as (in, out)."""
_CONV1D_NAME = re.compile(r"(?:^|\.)(?:c_attn|q_attn|c_proj|c_fc)\.weight$")


def transposed(
    adapter: Adapter,
    sites: Sequence[Site],
    product: Callable[[Site], tuple[int | None, int | None, str]],
) -> dict[str, bool]:
    """Return by target whether a site's weight is stored as (in, out).

    ``product`` gives (out, in) of what the adapter brings for a site, None where it does not say,
    and a tensor that says so.
    A square weight fits both ways: then the architecture decides where it is known. Otherwise its
    layer is of one kind with the adapter's other layers, and where there are none, PEFT has
    written the kind into fan_in_fan_out itself.

    Raises:
        ComposeError: an adapter for another shape.
        ComposeError: the way cannot be told.
    """
    ways: dict[str, bool] = {}
    square: list[Site] = []
    for site in sites:
        shape = adapter.target_shape(site.target)
        out, inner, tensor = product(site)
        rest = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        fits = [out in (None, rest[0]) and inner in (None, rest[1])]
        fits.append(len(shape) == 2 and out in (None, rest[1]) and inner in (None, rest[0]))
        if not any(fits):
            actual = [extent for extent in (out, inner) if extent is not None]
            raise adapter.misfit(tensor, site.target, shape, actual)
        if all(fits):
            square.append(site)
        else:
            ways[site.target] = fits[1]
    known = adapter.architecture in _CONV1D
    seen = set(ways.values()) or {known or bool(adapter.config.get("fan_in_fan_out"))}
    for site in square:
        if known:
            ways[site.target] = _CONV1D_NAME.search(site.target) is not None
        elif len(seen) == 2:
            raise adapter.refuse(
                f"it acts on {site.target!r}, a square weight beside weights of both "
                "orientations, so that its own cannot be told"
            )
        else:
            ways[site.target] = next(iter(seen))
    return ways
