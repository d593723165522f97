"""Patches of one recipe that change the same tensors, where ``sum`` adds what both changed.

What is a conflict is what it is to `modpkg merge`: copies that have different values at one place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from msgspec import Struct

from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import Composition, ComputedTensor, is_inner
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.rounding import rounded

_DTYPES = ("BF16", "F16", "F32", "F64")
MOST_ELEMENTS = 1 << 27
"""Elements that are compared, a few seconds of one core; a conflict in those is enough to tell."""


class PatchConflicts(Struct, frozen=True):
    """What patches changed to different values at the same places."""

    tensors: tuple[str, ...] = ()
    values: int = 0
    opposite: int = 0
    """Of the values, those changed in opposite directions."""
    more: bool = False
    """Whether not all tensors were compared."""

    def text(self) -> str:
        """Return them as part of a sentence, as `modpkg merge` does."""
        least = "at least " if self.more else ""
        return (
            f"{least}{len(self.tensors)} tensors ({self.tensors[0]!r} …; {self.values} values, "
            f"{self.opposite} changed in opposite directions)"
        )


def overlapping(composition: Composition) -> list[str]:
    """Return the tensors that several patches change, and whose changes are added."""
    return [
        name
        for name, item in composition.computed.items()
        if item.reducer == "sum" and sum(term.op == PATCHED.name for term in item.terms) > 1
    ]


def conflicts_of(composition: Composition) -> PatchConflicts:
    """Count the conflicts of the patches of a composition, whose modules are in the store.

    Of large models only the first tensors are compared, up to `MOST_ELEMENTS`.

    Raises:
        PackError, IntegrityError: A tensor cannot be read.
    """
    tensors, values, opposite, left = [], 0, 0, MOST_ELEMENTS
    names = overlapping(composition)
    for name in names:
        item = composition.computed[name]
        left -= math.prod(item.shape)
        if left < 0 and name != names[0]:
            break
        if item.dtype not in _DTYPES or is_inner(item.source):
            continue
        different = against = 0
        for some, other in _counted(composition.name, name, item):
            different, against = different + some, against + other
        if different:
            tensors.append(name)
            values, opposite = values + different, opposite + against
    return PatchConflicts(tuple(tensors), values, opposite, more=left < 0)


def _counted(model: str, name: str, item: ComputedTensor) -> Iterator[tuple[int, int]]:
    """Yield, for each block, how many values differ, and how many moved in opposite directions."""
    patches = [number for number, term in enumerate(item.terms) if term.op == PATCHED.name]
    with np.errstate(all="ignore"), TensorBlocks(model, name, item) as blocks:
        for base, contributions in blocks():
            deltas = [contributions[number].delta for number in patches]
            copies = [_bits(base + delta, item.dtype) for delta in deltas]
            own = _bits(base, item.dtype)
            yield _differing(own, copies, deltas)


def _bits(values: Any, dtype: str) -> Any:
    stored = rounded(values, dtype)
    return stored.view(f"i{stored.itemsize}")


def _differing(own: Any, copies: Sequence[Any], deltas: Sequence[Any]) -> tuple[int, int]:
    clash = np.zeros(own.shape, np.bool_)
    against = np.zeros(own.shape, np.bool_)
    for one, two in combinations(range(len(copies)), 2):
        unlike = (copies[one] != own) & (copies[two] != own) & (copies[one] != copies[two])
        clash |= unlike
        against |= unlike & (np.sign(deltas[one]) * np.sign(deltas[two]) < 0)
    return int(clash.sum()), int(against.sum())
