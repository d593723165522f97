"""NearSwap: the values of a model that are near the base's; the others are approached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modpkg.compose.parameter import REQUIRED
from modpkg.compose.reducers import exactly
from modpkg.compose.reducers.reducer import Contribution, reducer
from modpkg.compose.reducers.weighted import add_scaled
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


@reducer(
    "nearswap",
    exact=exactly.NEARSWAP,
    steps=(1, 1),
    relative="linear",
    weighted=False,
    bounds={"t": (0.0, math.inf)},
)
def nearswap(base: Array, contributions: Sequence[Contribution], *, t: float = REQUIRED) -> Array:
    """``nearswap``: each value moved towards the step's model, by t at most.

        base + min(1, t / |delta|) · delta

    The model's values where they are no farther from the base's than t. Alchemonaut 2024,
    https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001.
    """
    return add_scaled(base, np.clip(contributions[0].delta, -t, t))
