"""How much memory a composition takes, before it is carried out. Torch-free."""

from __future__ import annotations

import math
import os

from modpkg.adapters.layers import layer_path
from modpkg.compose.composition import NOTHING, Composition, ComputedTensor
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import find_reducer
from modpkg.compose.reducers.selection import KEPT_ELEMENTS

BLOCK_ELEMENTS = 1 << 16
"""Elements of a row block: a float64 block is 512 KiB, of which a handful fit into a core's cache.
Larger ones take fresh memory from the system with every operation, which cost five times what was
computed in it; smaller ones cost calls.

It is a constant, because a matrix product may round differently in blocks of another height."""

SINGLE_ELEMENTS = 1 << 19
"""Elements of a block in float32, in whose place nothing depends on its size: larger than a core's
cache, and the calls fewer in which threads wait for one another."""

KEPT_BYTES = 8 << 20
"""Of a tensor that is read to be measured and then to be made, all is kept up to this length."""

SAMPLE_RUNS = 16
"""Runs of a tensor that make a sample of it."""

_SINGLE, _DOUBLE = 4, 8
_BLOCKS = 12
"""Blocks that are alive at once, beside two for each term: base, sums, signs, masks, the result."""
_FIXED = 16 << 20
"""What a composition takes whatever is composed: modules, thread stacks, what malloc holds back."""


def run_elements(count: int) -> int:
    """Return the elements of a run: in all, a sample is a 128th of a large tensor."""
    return max(1 << 9, count >> 11)


def default_threads() -> int:
    """Return how many threads compose when nobody says: one for each core of this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_bytes(composition: Composition, threads: int) -> int:
    """Return a bound of the memory that composing takes, beside the interpreter and torch.

    Each thread holds blocks of one tensor, and the inputs that an operator needs whole; where an
    operator is written with torch, also the mapped pages of the base's tensor.
    """
    needs = sorted(_needs(composition.name, made) for made in composition.computed.values())
    return _FIXED + sum(needs[-threads:]) + _gates(composition)


def _gates(composition: Composition) -> int:
    """Return a bound for what is put together by rows: all of it, and one layer of what reads."""
    total = sum(_DOUBLE * math.prod(gate.shape) for gate in composition.routers.values())
    if composition.prompt_reader is not None:
        layers: dict[str, int] = {}
        for name, ref in composition.prompt_reader.tensors.items():
            place = layer_path(name)
            if place is not None:
                key = f"{place.stack}.{place.layer}"
                layers[key] = layers.get(key, 0) + _DOUBLE * math.prod(ref.shape) + ref.length
        total += max(layers.values(), default=0)
    return total


def _needs(model: str, made: ComputedTensor) -> int:
    count = math.prod(made.source.shape)
    columns = math.prod(made.source.shape[1:])
    block = _DOUBLE * min(count, max(BLOCK_ELEMENTS, columns))
    total = block * (_BLOCKS + 2 * len(made.terms))
    mapped = 0
    reducer = find_reducer(made.reducer, model) if made.terms else None
    for term in made.terms:
        if term.op == NOTHING:
            continue
        operator = find_operator(term.op, model)
        if not operator.arrays:
            mapped = made.source.length
        for role, ref in term.inputs.items():
            if role not in operator.by_rows:  # as it lies, as float64, and as it was prepared
                total += ref.length + 2 * _DOUBLE * math.prod(ref.shape)
        if operator.becomes:  # in float32, and a quarter of it in float64
            total += min(count, SINGLE_ELEMENTS) * (_SINGLE + 2 * _DOUBLE) // 2
        if term.importance is not None:
            total += block
    if reducer is not None and reducer.single is not None:
        total += min(count, SINGLE_ELEMENTS) * (8 * _SINGLE + 2 * _DOUBLE)
    if reducer is not None and reducer.measure is not None:
        total += sum(min(ref.length, KEPT_BYTES) for ref in made.inputs())
        sampled = min(count, SAMPLE_RUNS * (run_elements(count) + columns))
        total += _DOUBLE * (3 * sampled + 7 * min(count, KEPT_ELEMENTS))
    return total + mapped
