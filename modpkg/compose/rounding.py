"""Rounding float64 once, correctly, to the dtype of the result.

torch converts float64 to bfloat16 and float16 through float32, which rounds twice: a value just
above a tie can become the tie, and then go the wrong way. Here every element becomes the value
that is nearest to the float64, ties to even.
"""

from __future__ import annotations

import torch

# A second rounding can only go wrong at a tie of the narrow dtype. In float32 a tie has these low
# bits; float16 has further ties where it is subnormal, and all of them end in twelve zeros.
_LOW_BITS = {torch.bfloat16: (0xFFFF, 0x8000), torch.float16: (0x0FFF, 0)}


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
    mask, tie = _LOW_BITS[out.dtype]
    suspects = bits.bitwise_and(mask).eq(tie).nonzero(as_tuple=True)
    if suspects[0].numel():
        _round_to_odd(bits, single, values, suspects)
    out.copy_(single)


def _round_to_odd(
    bits: torch.Tensor, single: torch.Tensor, values: torch.Tensor, where: tuple[torch.Tensor, ...]
) -> None:
    """Move inexact float32 off the tie, to the neighbour on the side of the true value.

    That neighbour is odd, and rounding an odd one again is harmless: Boldo & Melquiond 2008,
    https://hal.inria.fr/inria-00080427. ``bits`` is ``single`` as int32: it grows with magnitude.
    """
    nearest = single[where]
    residual = values[where] - nearest.double()
    sign = nearest.sign()
    outward = torch.where(sign == 0, residual.abs(), residual * sign)
    bits[where] += torch.sign(outward).nan_to_num_(0.0).to(torch.int32)
