"""Whether a weight is stored as (out, in) or as (in, out)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from modpkg.adapters.changes import Adapter, Site

CONV1D = ("clvp", "clvp_decoder", "decision_transformer", "gpt2", "imagegpt", "openai-gpt")
"""Architectures whose blocks store their linear layers as (in, out)."""
_CONV1D_NAME = re.compile(r"(?:^|\.)(?:c_attn|q_attn|c_proj|c_fc)\.weight$")


def transposed(
    adapter: Adapter,
    sites: Sequence[Site],
    change_shape: Callable[[Site], tuple[int | None, int | None, str]],
) -> dict[str, bool]:
    """Return by target whether a site's weight is stored as (in, out).

    A square weight fits both ways: then the architecture decides if it is known. Otherwise its
    layer is of the same kind as the adapter's other layers, and if there are none, PEFT has
    recorded the kind in fan_in_fan_out.

    Args:
        adapter: The adapter, with its base.
        sites: The modules that it acts on.
        change_shape: For a site, (out, in) of the adapter's change, None where the adapter does
            not fix it, and the name of a tensor that shows it.

    Raises:
        ComposeError: A change fits its weight in neither orientation, or a square weight is
            ambiguous.
    """
    ways: dict[str, bool] = {}
    square: list[Site] = []
    for site in sites:
        shape = adapter.target_shape(site.target)
        out, inner, tensor = change_shape(site)
        first, rest = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        stored_fits = out in (None, first) and inner in (None, rest)
        transposed_fits = len(shape) == 2 and out in (None, rest) and inner in (None, first)
        if not stored_fits and not transposed_fits:
            actual = [extent for extent in (out, inner) if extent is not None]
            raise adapter.misfit(tensor, site.target, shape, actual)
        if stored_fits and transposed_fits:
            square.append(site)
        else:
            ways[site.target] = transposed_fits
    known = _has_conv1d(adapter)
    # PEFT sets it where the first weight that it wraps is (in, out); for HiRA it does not.
    plain = adapter.config.get("fan_in_fan_out") is False and (
        adapter.config.get("peft_type") != "HIRA"
    )
    kinds = set(ways.values()) or {known or bool(adapter.config.get("fan_in_fan_out"))}
    for site in square:
        if known:
            ways[site.target] = _CONV1D_NAME.search(site.target) is not None
        elif len(kinds) == 2 or (kinds == {True} and plain):
            raise adapter.refuse(
                f"it acts on {site.target!r}, a square weight beside weights of both "
                "orientations, so its own orientation is ambiguous"
            )
        else:
            ways[site.target] = next(iter(kinds))
    return ways


def _has_conv1d(adapter: Adapter) -> bool:
    """Return whether the base, or a model that it consists of, stores some layers as (in, out)."""
    parts = (part for part in adapter.model_config.values() if isinstance(part, dict))
    return any(
        kind in CONV1D for kind in (adapter.architecture, *(p.get("model_type") for p in parts))
    )
