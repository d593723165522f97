"""How far a number can be from one of a narrow dtype and still round to it."""

from __future__ import annotations

import torch

# Digits of the significand, and the exponent (as frexp has it) of the least normal number.
_DIGITS = {"BF16": (8, -125), "F16": (11, -13), "F32": (24, -125), "F64": (53, -1021)}
_INSIDE = 1 - 2.0**-20


def spacing(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return for float64 ``values`` of a dtype how far their neighbours are, away from zero."""
    digits, least = _DIGITS[dtype]
    exponents = torch.frexp(values).exponent
    exponents = exponents.where(values != 0, least).clamp_(min=least)
    return torch.ldexp(torch.ones_like(values), exponents - digits)


def bounds(values: torch.Tensor, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the largest numbers that surely round to ``values``.

    A power of two has a nearer neighbour on the side of zero.
    """
    half = spacing(values, dtype).mul_(0.5 * _INSIDE)
    inner = half.where(torch.frexp(values).mantissa.abs() != 0.5, half / 2)
    positive = values > 0
    low = values - inner.where(positive, half)
    high = values + half.where(positive | (values == 0), inner)
    return low, high
