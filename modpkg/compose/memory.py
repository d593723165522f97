"""How much memory a composition takes, before it is carried out. Torch-free."""

from __future__ import annotations

import math
import os

from modpkg.compose.composition import NOTHING, Composition, Made
from modpkg.compose.layers import place_of
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import find_reducer

BLOCK_ELEMENTS = 1 << 16
"""Elements of a row block: a float64 block is 512 KiB, of which a handful fit into a core's cache.
Larger ones take fresh memory from the system with every operation, which cost five times what was
computed in it; smaller ones cost calls.

It is a constant, because a matrix product may round differently in blocks of another height."""

_DOUBLE = 8
_PASSES = 6
"""Blocks that are alive at once beside one for each term: base, sums, masks, the result."""
_KEPT = 0.25
"""Share of a tensor's values that a method may keep aside while it looks for a threshold."""


def default_threads() -> int:
    """Return how many threads compose when nobody says: one for each core of this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_bytes(composition: Composition, threads: int) -> int:
    """Return a bound of the memory that composing takes, beside the interpreter and torch.

    Each thread holds blocks of one tensor; inputs that an operator needs whole; and, as long as
    the system leaves them there, the mapped pages of that tensor's inputs.
    """
    needs = sorted(_needs(composition.name, made) for made in composition.made.values())
    return sum(needs[-threads:]) + _gates(composition)


def _gates(composition: Composition) -> int:
    """Return a bound for what is put together by rows: all of it, and one layer of what reads."""
    total = sum(_DOUBLE * math.prod(gate.shape) for gate in composition.gates.values())
    if composition.probe is not None:
        layers: dict[str, int] = {}
        for name, ref in composition.probe.tensors.items():
            place = place_of(name)
            if place is not None:
                key = f"{place.stack}.{place.layer}"
                layers[key] = layers.get(key, 0) + _DOUBLE * math.prod(ref.shape) + ref.length
        total += max(layers.values(), default=0)
    return total


def _needs(model: str, made: Made) -> int:
    count = math.prod(made.source.shape)
    columns = math.prod(made.source.shape[1:])
    block = _DOUBLE * min(count, max(BLOCK_ELEMENTS, columns))
    total = block * (_PASSES + 2 * len(made.terms)) + made.source.length
    for term in made.terms:
        if term.op == NOTHING:
            continue
        by_rows = find_operator(term.op, model).by_rows
        for role, ref in term.inputs.items():
            total += ref.length
            if role not in by_rows:
                total += _DOUBLE * math.prod(ref.shape)
        if term.importance is not None:
            total += term.importance.length
    if made.terms and find_reducer(made.reducer, model).measure is not None:
        total += int(_KEPT * _DOUBLE * count)
    return total
