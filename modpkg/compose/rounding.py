"""Rounding float64 once, correctly, to the dtype of the result.

torch converts float64 to bfloat16 and float16 through float32, which rounds twice: a value just
above a tie can become the tie, and then go the wrong way. Both functions below give the value
that is nearest to the float64, ties to even.
"""

from __future__ import annotations

import torch


def round_into(out: torch.Tensor, values: torch.Tensor) -> None:
    """Write ``values`` into ``out``, rounded once.

    ``values`` is float64 and not changed; ``out`` has its shape and is float64, float32, bfloat16
    or float16.
    """
    if out.dtype in (torch.float64, torch.float32):
        out.copy_(values)
        return
    single = values.float()
    bits = single.view(torch.int32)
    # bfloat16: only a float32 exactly half-way between two bfloat16 can mislead the second
    # rounding. float16 has ties at other places where it is subnormal: there all inexact values
    # are rounded to odd first (Boldo & Melquiond 2008), which a second rounding cannot harm.
    half_way = (bits & 0xFFFF) == 0x8000
    suspect = half_way if out.dtype == torch.bfloat16 else (bits & 1) == 0
    if suspect.any():
        where = suspect.nonzero(as_tuple=True)
        residual = values[where] - single[where].double()
        # int32 of the same sign is ordered by magnitude: one step away from or towards zero
        sign = single[where].sign()
        outward = torch.where(sign == 0, residual.abs(), residual * sign)
        step = torch.sign(outward).nan_to_num_(0.0).to(torch.int32)
        bits[where] += step
    out.copy_(single)
