"""Weighted sums of fine-tunes with torch on a device: the same bytes as everywhere.

    X = b + Σ m_i · (x_i − b) / D

as in `modpkg.compose.torch_reduction`. But here ties are common: halves and thirds of sums of
narrow floats. So for elements in doubt, the sign of D · (X − T) is computed on the device too, T
being the tie between the two floats in question: see `modpkg.compose.sums`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from modpkg.compose.arrays import Stored
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.rows import RowReader
from modpkg.compose.sums import SPARE, Sum, off, sign_of, sum_of
from modpkg.compose.torch_reduction import (
    DTYPES,
    UNIT,
    Buffers,
    Exact,
    bracketed,
    elements_of,
    rounded_within,
    using_device,
)
from modpkg.core.dtypes import FLOATS


def torch_sum(
    model: str,
    device: str,
    dtype: str,
    method: str,
    settings: Mapping[str, Any],
    blocks: TensorBlocks,
    exact: Exact,
) -> TorchSum | None:
    """Return the reduction of a tensor by a method on a device; None if it is none of these here.

    See `modpkg.compose.torch_reduction.TorchReduction` for the others.
    """
    base = blocks.base
    others = [rows for term in blocks.terms if (rows := term.becomes()) is not None]
    readers = [base, *others]
    alike = all(rows.count == base.count and rows.ref.dtype in FLOATS for rows in readers)
    if not others or len(others) < len(blocks.terms) or not alike or dtype not in DTYPES:
        return None
    if method != "sum" and any(term.term.weight != 1.0 for term in blocks.terms):
        return None
    total = sum_of(method, [term.term for term in blocks.terms], settings)
    if total is None:
        return None
    parts = total.parts()
    if parts is None:
        return None
    return TorchSum(readers, dtype, total, parts, exact, torch.device(device), model)


class TorchSum:
    """A weighted sum of fine-tunes, iterated in blocks like `modpkg.compose.tensor.Reduction`.

    A block is valid until the next one is asked for.
    """

    def __init__(
        self,
        readers: Sequence[RowReader],
        dtype: str,
        total: Sum,
        parts: Sequence[Sequence[float]],
        exact: Exact,
        device: torch.device,
        model: str,
    ) -> None:
        """Bind the tensors: the base's and each fine-tune's; and D and m_i in parts."""
        self._readers, self._dtype, self._exact = readers, dtype, exact
        self._device, self._model, self._parts = device, model, parts
        self._factors = total.factors()
        self._share = 2 * (len(readers) + SPARE) * UNIT

    def __iter__(self) -> Iterator[Stored]:
        count, columns = self._readers[0].count, max(self._readers[0].columns, 1)
        rows = max(1, elements_of(self._device) // columns)
        size = min(rows * columns, count)
        with using_device(self._device, self._model):
            buffers = [
                Buffers(size, reader.ref.dtype, None if number else self._dtype, self._device)
                for number, reader in enumerate(self._readers)
            ]
        for first in range(0, count, size):
            yield self._block(first, min(size, count - first), columns, buffers)

    def _block(self, first: int, count: int, columns: int, buffers: Sequence[Buffers]) -> Stored:
        for reader, buffer in zip(self._readers, buffers, strict=True):
            reader.fill(buffer.read(count), first)
        with using_device(self._device, self._model):
            base, *others = (buffer.on_device(count).view(-1, columns) for buffer in buffers)
            reach = _largest(base)
            most = reach.clone()
            values = base.double()
            for other, factor in zip(others, self._factors, strict=True):
                values.add_(other.double().sub_(base.double()), alpha=factor)
                reach += abs(factor) * (most + _largest(other))
            bits, doubt = rounded_within(values, reach.mul_(self._share), self._dtype)
            where = torch.nonzero(doubt.view(-1)).view(-1)
            if len(where):
                where = self._decide(base.view(-1), [o.view(-1) for o in others], where, bits)
            buffers[0].write(bits)
            places = where.cpu().numpy()
        stored = buffers[0].written(count)
        if places.size:
            stored[places] = self._exact(places + first)
        return stored

    def _decide(
        self,
        base: torch.Tensor,
        others: Sequence[torch.Tensor],
        where: torch.Tensor,
        bits: torch.Tensor,
    ) -> torch.Tensor:
        """Write results at some places into ``bits``; return those places that stay in doubt."""
        start = base[where].double()
        ends = [other[where].double() for other in others]
        differences = [end - start for end in ends]
        value, size = start.clone(), start.abs()
        for difference, factor in zip(differences, self._factors, strict=True):
            value.add_(difference, alpha=factor)
            size.add_(difference.abs(), alpha=abs(factor))
        one, two, unsure = bracketed(value, size.mul_(self._share), self._dtype)
        low, high = torch.minimum(one, two), torch.maximum(one, two)
        kind = {2: torch.int16, 4: torch.int32}[bits.itemsize]
        unsure |= (low.view(kind) - high.view(kind)).abs() != 1
        tie = (low.double() + high.double()) / 2
        away = start - tie
        unsure |= off(start, -tie, away) != 0
        for end, difference in zip(ends, differences, strict=True):
            unsure |= off(end, -start, difference) != 0
        for difference in (away, *differences):
            unsure |= difference.float().double() != difference
        sign, known = sign_of((away, *differences), self._parts)
        certain = unsure.logical_not_() & known
        even = torch.where(low.view(kind) & 1 == 0, low, high)
        found = torch.where(sign > 0, high, torch.where(sign < 0, low, even))
        bits.view(-1)[where[certain]] = found[certain]
        return where[certain.logical_not_()]


def _largest(rows: torch.Tensor) -> torch.Tensor:
    sizes: torch.Tensor = torch.linalg.vector_norm(rows, float("inf"), dim=1)
    return sizes.double()
