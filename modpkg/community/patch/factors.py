"""Finding a low-rank change under rounding: B and A such that W + B·A rounds to X.

X − W is not of low rank, because X was rounded; but every element of X allows an interval, and
somewhere in all of them lies the change that was trained. The search goes back and forth between
the two sets, the matrices of a rank and those inside the intervals (Bregman 1965), from a sketch of
X − W (Halko, Martinsson & Tropp 2011, https://arxiv.org/abs/0909.4061). Where a few elements stay
outside, they are told one by one.
"""

from __future__ import annotations

import torch

from modpkg.community.patch.ulp import bounds, spacing

MOST_RANK = 64
_OVERSAMPLING = 8
_SWEEPS = 60
_TRIED = 12
"""Sweeps that tell whether one more rank is worth it."""
_PATIENCE = 8
_REACH = 1.6
"""How far beyond the interval's edge an element is taken: over-relaxation."""
_NOISE = 3.0
"""What may be left beside the first rank that is tried, in terms of what rounding leaves."""
_SINGLY = 3
"""Bytes that an element outside takes, about; a number of a factor takes 4."""


def find_low_rank(
    base: torch.Tensor, copy: torch.Tensor, dtype: str, most: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return a (rank, columns) and b (rows, rank), float64; None where there is no such change.

    ``base`` and ``copy`` are matrices of float64 whose values are of ``dtype``; ``most`` is the
    largest rank that is worth it. The same matrices give the same factors.
    """
    height, width = base.shape
    most = min(most, MOST_RANK, min(height, width) // 2)
    if most < 1:
        return None
    change = copy - base
    noise = float(spacing(copy, dtype).square_().sum()) / 12
    energy = float(change.square().sum())
    if energy <= noise:
        return None  # it moved by roundings alone
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
        a, b, outside = _refined(a, b, low, high, _TRIED)
        cost = 4.0 * rank * (height + width) + _SINGLY * outside
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
    found = torch.linalg.qr(change @ probe).Q
    for _ in range(2):
        found = torch.linalg.qr(change.t() @ found).Q
        found = torch.linalg.qr(change @ found).Q
    left, values, right = torch.linalg.svd(found.t() @ change, full_matrices=False)
    return found @ left, values, right


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
    found: torch.Tensor = torch.linalg.lstsq(square, right, driver="gelsd").solution
    return found
