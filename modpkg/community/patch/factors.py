"""Exact factors of a change: a low-rank product, or one number per row or column.

A fine-tuned tensor X was rounded, so X − W is not exactly of low rank, and X / W not exactly one
number per row. But every element of X stands for an interval of numbers that round to it, and a
change that stays inside all intervals restores X bit for bit.

The search for a low rank alternates between two sets (Bregman 1965): matrices of that rank, and
matrices inside the intervals. It starts from a sketch of X − W (Halko, Martinsson & Tropp 2011,
https://arxiv.org/abs/0909.4061). Elements that stay outside are stored individually.
"""

from __future__ import annotations

import torch

_DIGITS = {"BF16": (8, -125), "F16": (11, -13), "F32": (24, -125), "F64": (53, -1021)}
"""Digits of the significand, and the exponent (as in frexp) of the least normal number."""
_INSIDE = 1 - 2.0**-20
"""Share of half a spacing that surely rounds to the same number."""
_SAMPLE = 16
"""Rows that are tried first; at least half of them have to be multiples."""
MAX_RANK = 64
_OVERSAMPLING = 8
_SWEEPS = 60
_TRIAL_SWEEPS = 12
"""Sweeps after which the next rank is tried."""
_PATIENCE = 8
_REACH = 1.6
"""Over-relaxation: how far an element is moved beyond the edge of its interval."""
_NOISE = 3.0
"""Largest residual of the first rank that is tried, as a multiple of the rounding noise."""
_ELEMENT_BYTES = 3
"""Approximate size of an element stored individually; a number of a factor takes 4."""


def find_low_rank(
    base: torch.Tensor, copy: torch.Tensor, dtype: str, most: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return float64 factors a (rank, columns) and b (rows, rank); None if there are none.

    The result is deterministic.

    Args:
        base: Matrix of float64 whose values are of ``dtype``.
        copy: The fine-tuned matrix, of the same form.
        dtype: The dtype that ``copy`` was rounded to.
        most: The largest rank that is worth it.
    """
    height, width = base.shape
    most = min(most, MAX_RANK, min(height, width) // 2)
    if most < 1:
        return None
    change = copy - base
    noise = float(spacing(copy, dtype).square_().sum()) / 12
    energy = float(change.square().sum())
    if energy <= noise:
        return None  # the change is rounding noise
    left, values, right = _sketch(change, min(most + _OVERSAMPLING, height, width))
    rest = energy - values.square().cumsum(0)
    enough = (rest <= _NOISE * noise + 1e-12 * energy).nonzero().flatten()
    if not enough.numel() or int(enough[0]) + 1 > most:
        return None
    low, high = bounds(copy, dtype)
    low, high = low.sub_(base), high.sub_(base)
    best: tuple[float, torch.Tensor, torch.Tensor] | None = None
    for rank in range(int(enough[0]) + 1, most + 1):
        root = values[:rank].sqrt()
        a, b = right[:rank] * root.unsqueeze(1), left[:, :rank] * root
        a, b, outside = _refined(a, b, low, high, _TRIAL_SWEEPS)
        cost = 4.0 * rank * (height + width) + _ELEMENT_BYTES * outside
        if best is not None and cost >= best[0]:
            break
        best = (cost, a, b)
        if not outside:
            break
    assert best is not None  # noqa: S101
    return _refined(*best[1:], low, high, _SWEEPS)[:2]


def _sketch(change: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the leading singular vectors and values, from two passes of subspace iteration."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(change.shape[1], size, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(change @ probe).Q
    for _ in range(2):
        basis = torch.linalg.qr(change.t() @ basis).Q
        basis = torch.linalg.qr(change @ basis).Q
    left, values, right = torch.linalg.svd(basis.t() @ change, full_matrices=False)
    return basis @ left, values, right


def _refined(
    a: torch.Tensor, b: torch.Tensor, low: torch.Tensor, high: torch.Tensor, sweeps: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the factors whose product has the fewest elements outside the bounds, and how many."""
    best, fewest, waited = (a, b), low.numel() + 1, 0
    for _ in range(sweeps):
        product = b @ a
        nearest = product.clamp(low, high)
        outside = int((nearest != product).count_nonzero())
        waited = 0 if outside < 0.98 * fewest else waited + 1
        if outside < fewest:
            best, fewest = (a, b), outside
        if not outside or waited >= _PATIENCE:
            break
        wanted = product.lerp_(nearest, _REACH)
        b = _solved(a @ a.t(), a @ wanted.t()).t()
        a = _solved(b.t() @ b, b.t() @ wanted)
    return (*best, fewest)


def _solved(square: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    solution: torch.Tensor = torch.linalg.lstsq(square, right, driver="gelsd").solution
    return solution


def find_scales(base: torch.Tensor, copy: torch.Tensor, dtype: str) -> torch.Tensor | None:
    """Return one number per row; None if rows are not multiples of the base's.

    The numbers are float32 where that is exact enough, else float64: for each row the middle of
    the interval that all of its elements allow.

    Args:
        base: Matrix of float64 whose values are of ``dtype``.
        copy: The fine-tuned matrix, of the same form.
        dtype: The dtype that ``copy`` was rounded to.
    """
    if base.shape[1] < 2:
        return None
    step = max(1, len(base) // _SAMPLE)
    low, high = _scale_bounds(base[::step], copy[::step], dtype)
    if 2 * int((low <= high).count_nonzero()) < len(low):
        return None
    low, high = _scale_bounds(base, copy, dtype)
    idle = (low <= 1.0) & (high >= 1.0)
    scales = ((low + high) / 2).masked_fill(idle, 1.0)
    scales = scales.masked_fill(~scales.isfinite(), 1.0)
    single = scales.float()
    held = (single.double() >= low) & (single.double() <= high)
    return single if bool((held | (low > high)).all()) else scales


def _scale_bounds(
    base: torch.Tensor, copy: torch.Tensor, dtype: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, per row, the least and largest number that maps every element to the copy's."""
    least, most = bounds(copy, dtype)
    one, two = least / base, most / base
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    idle = base == 0  # any number keeps 0; if it changed, it is stored individually
    low, high = low.masked_fill(idle, -torch.inf), high.masked_fill(idle, torch.inf)
    return low.amax(1), high.amin(1)


def spacing(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return the distance of float64 ``values`` of a dtype to the next value away from zero."""
    digits, least = _DIGITS[dtype]
    exponents = torch.frexp(values).exponent
    exponents = exponents.where(values != 0, least).clamp_(min=least)
    return torch.ldexp(torch.ones_like(values), exponents - digits)


def bounds(values: torch.Tensor, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and largest numbers that round to ``values`` of a dtype.

    The neighbour of a power of two towards zero is nearer than the other one.
    """
    half = spacing(values, dtype).mul_(0.5 * _INSIDE)
    inner = half.where(torch.frexp(values).mantissa.abs() != 0.5, half / 2)
    positive = values > 0
    low = values - inner.where(positive, half)
    high = values + half.where(positive | (values == 0), inner)
    return low, high
