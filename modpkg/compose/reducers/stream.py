"""Random numbers by place: the same for an element whatever is drawn before it, and by whom."""

from __future__ import annotations

import hashlib

import torch

_INCREMENT = -7046029254386353131  # 0x9E3779B97F4A7C15, the golden ratio
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def uniform(seed: int, key: bytes, first: int, shape: torch.Size) -> torch.Tensor:
    """Return float64 in [0, 1) for the elements from ``first`` on, of the stream of seed and key.

    Element i is the i-th output of SplitMix64 (Steele, Lea & Flood 2014,
    https://doi.org/10.1145/2714064.2660195), which is a hash of a counter, from a state that is
    SHA-256 of seed and key. Integers alone decide it: every machine draws the same.
    """
    state = hashlib.sha256(b"%d:" % seed + key).digest()
    start = int.from_bytes(state[:8], "little", signed=True)
    count = shape.numel()
    x = torch.arange(first + 1, first + 1 + count, dtype=torch.int64)
    x.mul_(_INCREMENT).add_(start)
    x = _mixed(x, 30).mul_(_FIRST)
    x = _mixed(x, 27).mul_(_SECOND)
    x = _mixed(x, 31)
    return _shifted(x, 11).double().mul_(2.0**-53).view(shape)


def _mixed(x: torch.Tensor, bits: int) -> torch.Tensor:
    return x.bitwise_xor_(_shifted(x, bits))


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Return x shifted to the right as unsigned: torch's own shift repeats the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
