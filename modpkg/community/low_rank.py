"""Finding a low-rank change under rounding: B and A such that W + B·A rounds to X.

X − W is not of low rank, because X was rounded; but every element of X allows an interval, and
somewhere in all of them lies the change that was trained. The search goes back and forth between
the two sets, the matrices of a rank and those inside the intervals (Bregman 1965), from a sketch of
X − W (Halko, Martinsson & Tropp 2011, https://arxiv.org/abs/0909.4061). Where a few elements stay
outside, they are told one by one.
"""

from __future__ import annotations

import torch

from modpkg.community.nearness import bounds, spacing

MOST_RANK = 64
_OVERSAMPLING = 8
_SWEEPS = 60
_PATIENCE = 8
_REACH = 1.6
"""How far beyond the interval's edge an element is taken: over-relaxation."""
_NOISE = 1.5
"""What may be left beside a low-rank change, in terms of what rounding leaves."""


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
    if energy <= 2 * noise:
        return None  # it moved by roundings alone
    left, values, right = _sketch(change, min(most + _OVERSAMPLING, height, width))
    rest = energy - values.square().cumsum(0)
    enough = (rest <= _NOISE * noise + 1e-12 * energy).nonzero().flatten()
    if not enough.numel() or int(enough[0]) + 1 > most:
        return None
    rank = int(enough[0]) + 1
    root = values[:rank].sqrt()
    return _refined(
        right[:rank] * root.unsqueeze(1), left[:, :rank] * root, *_allowed(base, copy, dtype)
    )


def _sketch(
    change: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the leading singular vectors and values, from two passes of subspace iteration."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(change.shape[1], size, generator=generator, dtype=torch.float64)
    found = torch.linalg.qr(change @ probe).Q
    for _ in range(2):
        found = torch.linalg.qr(change.t() @ found).Q
        found = torch.linalg.qr(change @ found).Q
    left, values, right = torch.linalg.svd(found.t() @ change, full_matrices=False)
    return found @ left, values, right


def _allowed(
    base: torch.Tensor, copy: torch.Tensor, dtype: str
) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = bounds(copy, dtype)
    return low.sub_(base), high.sub_(base)


def _refined(
    a: torch.Tensor, b: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors whose product has most elements between the bounds."""
    best, fewest, waited = (a, b), low.numel() + 1, 0
    for _ in range(_SWEEPS):
        product = b @ a
        nearest = product.clamp(low, high)
        outside = int((nearest != product).count_nonzero())
        if outside < fewest:
            waited = 0 if outside < 0.98 * fewest else waited + 1
            best, fewest = (a, b), outside
        else:
            waited += 1
        if not outside or waited >= _PATIENCE:
            break
        wanted = product.lerp_(nearest, _REACH)
        b = _solved(a @ a.t(), a @ wanted.t()).t()
        a = _solved(b.t() @ b, b.t() @ wanted)
    return best


def _solved(square: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.linalg.lstsq(square, right, driver="gelsd").solution
    return found
