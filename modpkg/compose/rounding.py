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
    flags = bits.bitwise_and(mask).eq(tie).view(-1)
    if flags.numel() % 8:
        suspects = flags.nonzero().view(-1)
    else:  # few of them mostly, so eight are looked at at once
        eights = flags.view(torch.int64).nonzero().view(-1)
        if eights.numel() > flags.numel() // 64:
            # Means of narrow numbers are ties all over.
            _all_to_odd(bits, single, values, flags.view(values.shape))
            eights = eights[:0]
        suspects = (eights.unsqueeze(1) * 8 + torch.arange(8))[flags.view(-1, 8)[eights]]
    if suspects.numel():
        _round_to_odd(bits.view(-1), single.view(-1), values.reshape(-1), suspects)
    out.copy_(single)


def _all_to_odd(
    bits: torch.Tensor, single: torch.Tensor, values: torch.Tensor, flags: torch.Tensor
) -> None:
    """Do what `_round_to_odd` does where ``flags`` are set, without picking them out."""
    # Away from zero is +1 for the bits: the sign of the error, turned where the value is negative.
    error = single.double().neg_().add_(values).sign_().mul_(single.sign())
    bits.add_(error.mul_(flags).int())


def _round_to_odd(
    bits: torch.Tensor, single: torch.Tensor, values: torch.Tensor, where: torch.Tensor
) -> None:
    """Move inexact float32 off the tie, to the neighbour on the side of the true value.

    That neighbour is odd, and rounding an odd one again is harmless: Boldo & Melquiond 2008,
    https://hal.inria.fr/inria-00080427. ``bits`` is ``single`` as int32: it grows with magnitude.
    All are flat.
    """
    nearest, true = single[where].double().abs(), values[where].abs()
    bits[where] += (true > nearest).int() - (true < nearest).int()
