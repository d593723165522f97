"""Finding numbers that each row, or each column, of a tensor was multiplied by."""

from __future__ import annotations

import torch

from modpkg.community.patch.ulp import bounds

_SAMPLE = 16
"""Rows (columns) that are tried first: half of them at least have to be multiples."""


def find_scales(base: torch.Tensor, copy: torch.Tensor, dtype: str) -> torch.Tensor | None:
    """Return one number for each row, or None where rows are no multiples of the base's.

    ``base`` and ``copy`` are matrices of float64 whose values are of ``dtype``. The numbers are
    float32 where that is enough, else float64: each the middle of what all elements of the row
    allow. Of a row that is no multiple, it is the number that fits one element.
    """
    if base.shape[1] < 2:
        return None
    step = max(1, len(base) // _SAMPLE)
    low, high = _between(base[::step], copy[::step], dtype)
    if 2 * int((low <= high).count_nonzero()) < len(low):
        return None
    low, high = _between(base, copy, dtype)
    idle = (low <= 1.0) & (high >= 1.0)
    found = ((low + high) / 2).masked_fill(idle, 1.0)
    found = found.masked_fill(~found.isfinite(), 1.0)
    single = found.float()
    held = (single.double() >= low) & (single.double() <= high)
    return single if bool((held | (low > high)).all()) else found


def _between(
    base: torch.Tensor, copy: torch.Tensor, dtype: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the largest number that takes every element of a row to its own."""
    least, most = bounds(copy, dtype)
    one, two = least / base, most / base
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    idle = base == 0  # whatever it is multiplied by: it is told by itself if it changed
    low, high = low.masked_fill(idle, -torch.inf), high.masked_fill(idle, torch.inf)
    return low.amax(1), high.amin(1)
