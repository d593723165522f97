"""Whether the weights and settings of a tensor's steps go together, by method: `Reducer.check`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def linear(
    weights: Sequence[float], parameters: Mapping[str, Any], _: Sequence[Mapping[str, Any]]
) -> str:
    """Return why ``linear`` cannot divide by the sum of these weights; "" if it can."""
    if parameters["normalize"] and not math.fsum([parameters["base_weight"], *weights]):
        return "linear divides by the sum of the weights, which is 0"
    return ""


def multislerp(
    weights: Sequence[float], parameters: Mapping[str, Any], _: Sequence[Mapping[str, Any]]
) -> str:
    """Return why ``multislerp`` cannot divide by the sum of these weights; "" if it can."""
    if not parameters["from_base"]:
        weights = [parameters["base_weight"], *weights]
    if len(weights) > 1 and parameters["normalize_weights"] and not sum(weights):
        return "multislerp divides by the sum of the weights, which is 0"
    return ""


def nuslerp(
    weights: Sequence[float], parameters: Mapping[str, Any], _: Sequence[Mapping[str, Any]]
) -> str:
    """Return why ``nuslerp`` takes another number of steps; "" if it takes these."""
    from_base = parameters["from_base"]
    if from_base == (len(weights) == 2):
        return ""
    wanted = "two steps" if from_base else "one step"
    return f"nuslerp with from_base = {str(from_base).lower()} takes {wanted}"


def della(
    _: Sequence[float], parameters: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> str:
    """Return why a step's probabilities are none; "" if all are more than 0 and less than 1."""
    for step in steps:
        density, epsilon = step["density"], step["epsilon"]
        if 0 < density < 1 and (density + epsilon >= 1 or density - epsilon <= 0):
            return (
                f"density ± epsilon is {density:g} ± {epsilon:g}, but must be more than 0 and "
                "less than 1"
            )
    return ""
