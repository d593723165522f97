"""What low-rank adapters add to the output of a linear layer: Σ scale · B (A x).

    all rows      x (Aᵀ) (Bᵀ), added to the base's output
    each row      the same with a stack of each row's A and B, so that rows with different adapters
                  are computed together

On the CPU, what is added to all rows is computed as PEFT does, operation by operation, and has its
bits. Elsewhere starting an operation takes longer than small products do: there the scale and the
sum are part of a product, if the adapter has the base's dtype. If it is wider, its products with a
few inputs are computed row by row: products of such matrices are made for large ones, and a sum of
thousands by one group of threads takes longer than many sums at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from msgspec import Struct
from torch.nn import functional

Run = Callable[..., torch.Tensor]
"""The forward pass of a module."""
STACKED = 2 << 30
"""Maximum bytes of the stacks of one batch; layers beyond are computed adapter by adapter."""
FEW = 64
"""Inputs that a change in a wider dtype than the base's is multiplied with row by row."""


class Factors(Struct, frozen=True):
    """One low-rank change: scale · B A."""

    a: torch.Tensor
    """[rank, in]"""
    b: torch.Tensor
    """[out, rank]"""
    scale: float

    @property
    def rank(self) -> int:
        """The number of rows of A."""
        return int(self.a.shape[0])


def as_peft(forward: Run, factors: Sequence[Factors]) -> Run:
    """Return the forward pass with changes for all rows, in PEFT's order of operations."""

    def run(x: torch.Tensor) -> torch.Tensor:
        out = forward(x)
        return out.add_(changed(x, factors))

    return run


def changed(
    x: torch.Tensor, factors: Sequence[Factors], *, embedding: bool = False
) -> torch.Tensor:
    """Return the sum of changes for inputs ``x``, [..., in], in the wider of the dtypes.

    Of an ``embedding``, ``x`` has ids and A the column of each.
    """
    deltas = []
    for each in factors:
        if embedding:
            inner = functional.embedding(x, each.a.t())
        else:
            dtype = torch.promote_types(x.dtype, each.a.dtype)
            inner = functional.linear(x.to(dtype), each.a.to(dtype))
        delta = functional.linear(inner, each.b.to(inner.dtype))
        deltas.append(delta if each.scale == 1.0 else delta * each.scale)
    total, *others = deltas
    for delta in others:
        total = total + delta
    return total


class Change(Struct, frozen=True):
    """Low-rank changes as one: scale · x A diag(scales) B, in as few operations as there can be."""

    a: torch.Tensor
    """[in, rank]"""
    b: torch.Tensor
    """[rank, out]"""
    scale: float
    scales: torch.Tensor | None
    """[rank]; None where ``scale`` is that of all."""

    def adder(
        self, base: torch.dtype, few: int = FEW
    ) -> Callable[[torch.Tensor, torch.Tensor], object]:
        """Return what adds the change for inputs ``x``, [n, in], to an output, [n, out].

        It is called with the output and ``x``, both of the dtype ``base``. If the change is wider,
        up to ``few`` inputs are computed row by row.
        """
        a, b, scale, scales, dtype = self.a, self.b, self.scale, self.scales, self.a.dtype

        def one(out: torch.Tensor, x: torch.Tensor) -> object:
            return out.addmm_(x.mm(a), b, alpha=scale)

        def several(out: torch.Tensor, x: torch.Tensor) -> object:
            return out.addmm_(x.mm(a).mul_(each), b)

        each = a if scales is None else scales
        if dtype is base:
            return one if scales is None else several
        by_row: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def wider(out: torch.Tensor, x: torch.Tensor) -> object:
            count = x.shape[0]
            if count > few:
                inner = x.to(dtype).mm(a)
                if scales is not None:
                    inner.mul_(scales)
                return out.add_(inner.mm(b), alpha=scale)
            if count not in by_row:  # views of the same memory
                by_row[count] = a.expand(count, -1, -1), b.expand(count, -1, -1)
            wide, high = by_row[count]
            inner = x.to(dtype).unsqueeze(1).bmm(wide)
            if scales is not None:
                inner.mul_(scales)
            return out.add_(inner.bmm(high).view(out.shape), alpha=scale)

        return wider


def joined(factors: Sequence[Factors], base: torch.dtype) -> Change:
    """Return changes as one, in the widest of their dtypes and ``base``."""
    dtype = base
    for each in factors:
        dtype = torch.promote_types(dtype, each.a.dtype)
    first, *others = factors
    if not others:
        return Change(first.a.to(dtype).t(), first.b.to(dtype).t(), first.scale, None)
    a = torch.cat([each.a.to(dtype) for each in factors]).t()
    b = torch.cat([each.b.to(dtype) for each in factors], 1).t()
    return Change(a, b, *common_scale(factors, dtype, a.device))


def common_scale(
    factors: Sequence[Factors], dtype: torch.dtype, device: torch.device
) -> tuple[float, torch.Tensor | None]:
    """Return the scale of all changes and None, or else 1 and the scale of each rank."""
    scale = factors[0].scale
    if all(each.scale == scale for each in factors):
        return scale, None
    scales = [each.scale for each in factors for _ in range(each.rank)]
    return 1.0, torch.tensor(scales, dtype=dtype, device=device)


def fused(forward: Run, factors: Sequence[Factors], base: torch.dtype) -> Run:
    """Return the forward pass with changes for all rows, in as few operations as there can be.

    Args:
        forward: The base's forward pass.
        factors: The changes, at least one.
        base: The dtype of the base's weight.
    """
    change = joined(factors, base)
    add, (wide, high) = change.adder(base), (change.a.shape[0], change.b.shape[1])
    autocast, device = torch.is_autocast_enabled, change.a.device.type

    def run(x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not base or autocast(device):
            return forward(x).add_(changed(x, factors))
        if x.dim() == 2:
            out = forward(x)
            add(out, x)
            return out
        flat = x.view(-1, wide) if x.is_contiguous() else x.reshape(-1, wide)
        out = forward(flat)
        add(out, flat)
        return out.view(*x.shape[:-1], high)

    return run


class RowStacks:
    """The factors of each row of a batch, stacked layer by layer within a bound of memory."""

    def __init__(self, most: int | None = None) -> None:
        self._left = STACKED if most is None else most

    def run(
        self,
        forward: Run,
        rows: Sequence[Sequence[Factors]],
        base: torch.dtype,
        check: Callable[[int], None],
    ) -> Run | None:
        """Return the forward pass with each row's changes; None if there is no memory for it.

        Args:
            forward: The base's forward pass.
            rows: The changes of each row, some of which may have none.
            base: The dtype of the base's weight.
            check: Called with the first extent of an input, a multiple of the number of rows.
        """
        some = next(each for row in rows for each in row)
        dtype = base
        for each in (each for row in rows for each in row):
            dtype = torch.promote_types(dtype, each.a.dtype)
        rank = max(sum(each.rank for each in row) for row in rows)
        (count, wide), high = (len(rows), some.a.shape[1]), some.b.shape[0]
        size = count * rank * (wide + high) * dtype.itemsize
        if size > self._left:
            return None
        self._left -= size
        device = some.a.device
        padded: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for row in rows:  # those of one adapter are one object
            if id(row) not in padded:
                parts = [(each.a.to(dtype), each.b.to(dtype)) for each in row]
                left = rank - sum(each.rank for each in row)
                if left:
                    zeros = torch.zeros(left, wide + high, dtype=dtype, device=device)
                    parts.append((zeros[:, :wide], zeros[:, wide:].t()))
                (a, b), *more = parts
                if more:
                    a = torch.cat([part for part, _ in parts])
                    b = torch.cat([part for _, part in parts], 1)
                padded[id(row)] = a, b
        a = torch.stack([padded[id(row)][0] for row in rows])
        b = torch.stack([padded[id(row)][1] for row in rows])
        scale, scales = _scales(rows, rank, dtype, device)
        a, b = a.transpose(1, 2), b.transpose(1, 2)
        plain = dtype == base

        def run(x: torch.Tensor) -> torch.Tensor:
            shape = x.shape
            check(shape[0])
            whole = len(shape) == 3 and shape[0] == count
            flat = x.view(-1, wide) if x.is_contiguous() else x.reshape(-1, wide)
            out = forward(flat)
            sums = out.view(count, -1, high)
            if not whole:
                x = flat.view(count, -1, wide)
            inner = (x if x.dtype is dtype else x.to(dtype)).bmm(a)
            if scales is not None:
                inner.mul_(scales)
            if plain and sums.dtype is inner.dtype is dtype:
                sums.baddbmm_(inner, b, alpha=scale)
            else:
                sums.add_(inner.bmm(b), alpha=scale)
            return sums if whole else out.view(*shape[:-1], high)

        return run


def _scales(
    rows: Sequence[Sequence[Factors]], rank: int, dtype: torch.dtype, device: torch.device
) -> tuple[float, torch.Tensor | None]:
    """Return the scale of all rows' changes, or else a scale for each rank: [rows, 1, rank]."""
    alike = {each.scale for row in rows for each in row}
    if len(alike) == 1:
        return alike.pop(), None
    table = []
    for row in rows:
        scales = [each.scale for each in row for _ in range(each.rank)]
        table.append(scales + [0.0] * (rank - len(scales)))
    return 1.0, torch.tensor(table, dtype=dtype, device=device)[:, None]
