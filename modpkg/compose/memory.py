"""Block sizes, threads, and the memory that composing will need. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modpkg.adapters.layers import layer_path
from modpkg.compose.composition import NOTHING, Composition, ComputedTensor
from modpkg.compose.nested import files_of, reached
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import find_reducer
from modpkg.compose.reducers.bitmap import PART
from modpkg.compose.reducers.selection import KEPT_BITS, KEPT_ELEMENTS
from modpkg.core.system_limits import machine_memory

BLOCK_ELEMENTS = 1 << 16
"""Elements of a row block: as float64 it is 512 KiB, and a few of them fit into a core's cache.
Larger blocks are allocated from the system in every operation, which took five times as long as the
arithmetic; smaller ones add call overhead.

It is a constant, because a matrix product may round differently in blocks of another height."""

SINGLE_ELEMENTS = 1 << 19
"""Elements of a float32 block, where no result depends on the size: larger than a core's cache, but
with fewer calls for which threads contend."""

DEVICE_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Elements of a block that torch computes, by kind of device: they fit into a core's cache, or they
keep a GPU busy for longer than it takes to start its kernels. Each thread has pinned memory for one
block and its result."""

DEVICE_ELEMENT_BYTES = 64
"""Bytes of a GPU's memory that an element of a block needs at most, in all its steps."""

DEVICE_BYTES = 4 << 30
"""Results of this size are computed on a GPU, if there is one and nothing else was asked for: in
the seconds that importing torch and starting the GPU take, 16 cores do as much (measured beside an
H100, benchmarks/results/large.md)."""

STARTED_DEVICE_BYTES = 1 << 28
"""The same in a process that has used a GPU already."""

DEVICE_FREE_BYTES = 1 << 30
"""Memory of a GPU that has to be free."""

KEPT_BYTES = 8 << 20
"""A tensor that is read twice, to measure and then to compute, stays in memory up to this size."""

PRODUCT_ELEMENTS = 1 << 20
"""Elements of a block to which a product of two matrices is added, float32 first."""

PROCESS_OUTPUT = 1 << 30
"""Bytes of a result from which on processes compute it. They take half a second to start."""

MEASURING_OUTPUT = 1 << 28
"""The same for methods that measure each tensor before they compute it: their calls of numpy are
shorter and more, and threads wait for Python's lock as long as they compute."""

PROCESS_BYTES = 64 << 20
"""Memory that a process takes before it computes."""

_PROCESSES_SHARE = 4
"""All processes take at most this part of the machine's memory."""

SAMPLE_RUNS = 16
"""Number of runs of consecutive elements in a tensor's sample."""

_SINGLE, _DOUBLE = 4, 8
_BLOCKS = 12
"""Blocks alive at the same time, besides two per term: base, sums, signs, masks, the result."""
_FIXED = 16 << 20
"""Bytes that any composition takes: modules, thread stacks, memory that malloc retains."""


def run_elements(count: int) -> int:
    """Return the elements per sample run; all runs are 1/128 of a large tensor."""
    return max(1 << 10, count >> 11)


def is_measured(model: str, computed: ComputedTensor) -> bool:
    """Return whether a tensor is read once to be measured, before it is computed."""
    if not computed.terms:
        return False
    reducer = find_reducer(computed.reducer, model)
    return reducer.measure is not None and not reducer.across


def needs_torch(composition: Composition) -> bool:
    """Return whether torch computes a part of it; numpy does the rest."""
    terms = [term for item in _all_computed(composition) for term in item.terms]
    ops = {term.op for term in terms} - {NOTHING}
    of_torch = any(not find_operator(op, composition.name).arrays for op in ops)
    return of_torch or bool(composition.routers)


def _all_computed(composition: Composition) -> Iterator[ComputedTensor]:
    """Yield every tensor that is computed, those of composed modules too."""
    yield from composition.computed.values()
    yield from (item.computed for item in composition.inner.values() if item.computed is not None)


def peak_bytes(composition: Composition, threads: int) -> int:
    """Return an upper bound of the bytes that composing needs, without interpreter and torch.

    Each thread holds blocks of one tensor and the inputs that its operators need whole; if an
    operator is written with torch, also the mapped pages of the base's tensor. So does each
    process, beside its interpreter and modules. What a tensor is computed from is computed before
    it, one after the other.
    """
    needs = sorted(_tensor_bytes(composition.name, item) for item in _all_computed(composition))
    processes = PROCESS_BYTES * process_count(composition, threads)
    return _FIXED + processes + sum(needs[-threads:]) + _router_bytes(composition)


def scratch_bytes(composition: Composition, threads: int) -> int:
    """Return an upper bound of the bytes of tensors that are stored only while others need them."""
    if not composition.inner:
        return 0
    needs = []
    for computed in composition.computed.values():
        inner = reached(files_of(computed), composition.inner).values()
        needs.append(sum(item.computed.length for item in inner if item.computed is not None))
    return sum(sorted(needs)[-threads:])


def process_count(composition: Composition, cores: int) -> int:
    """Return how many processes compute a composition on so many cores; 0 if threads do."""
    length = sum(item.length for item in composition.computed.values())
    measured = sum(
        item.length for item in composition.computed.values() if is_measured(composition.name, item)
    )
    large = length >= PROCESS_OUTPUT or measured >= MEASURING_OUTPUT
    if cores == 1 or not large or needs_torch(composition):
        return 0
    need = max(_tensor_bytes(composition.name, item) for item in _all_computed(composition))
    allowed = (machine_memory() or math.inf) / _PROCESSES_SHARE
    return cores if cores * (PROCESS_BYTES + need) <= allowed else 0


def _router_bytes(composition: Composition) -> int:
    """Return an upper bound for routers, plus one layer of the base if it reads prompts."""
    total = sum(_DOUBLE * math.prod(router.shape) for router in composition.routers.values())
    if composition.prompt_reader is not None:
        layers: dict[str, int] = {}
        for name, ref in composition.prompt_reader.tensors.items():
            place = layer_path(name)
            if place is not None:
                key = f"{place.stack}.{place.layer}"
                layers[key] = layers.get(key, 0) + _DOUBLE * math.prod(ref.shape) + ref.length
        total += max(layers.values(), default=0)
    return total


def _tensor_bytes(model: str, computed: ComputedTensor) -> int:
    """Return an upper bound of the bytes that computing one tensor needs."""
    count = math.prod(computed.shape)
    columns = math.prod(computed.source.shape[1:])
    block = _DOUBLE * min(count, max(BLOCK_ELEMENTS, columns))
    total = block * (_BLOCKS + 2 * len(computed.terms))
    mapped = 0
    reducer = find_reducer(computed.reducer, model) if computed.terms else None
    for term in computed.terms:
        if term.op == NOTHING:
            continue
        operator = find_operator(term.op, model)
        if not operator.arrays:
            mapped = computed.source.length + (computed.length if computed.rows else 0)
        for role, ref in term.inputs.items():
            if role not in operator.by_rows:  # as stored, as float64, and prepared
                total += ref.length + 2 * _DOUBLE * math.prod(ref.shape)
                if operator.factors is not None:  # as one matrix of all terms, and as float32
                    total += (2 * _DOUBLE + _SINGLE) * math.prod(ref.shape)
        if operator.factors is not None:  # as stored, as float32, and what is gathered
            total += min(count, PRODUCT_ELEMENTS) * (2 * _SINGLE + 4 * _DOUBLE)
        if operator.becomes:  # float32, and a quarter of it as float64
            total += min(count, SINGLE_ELEMENTS) * (_SINGLE + 2 * _DOUBLE) // 2
        if term.importance is not None:
            total += block
    if reducer is not None and reducer.single is not None:
        total += min(count, SINGLE_ELEMENTS) * (8 * _SINGLE + 2 * _DOUBLE)
    if reducer is not None and reducer.measure is not None:
        total += sum(min(ref.length, KEPT_BYTES) for ref in computed.inputs())
        sampled = min(count, SAMPLE_RUNS * (run_elements(count) + columns))
        total += _DOUBLE * (3 * sampled + 5 * min(count, KEPT_ELEMENTS))
        total += 6 * _DOUBLE * min(count, PART)  # draws
        total += (4 + len(computed.terms)) * min(count, KEPT_BITS) // 8
    return total + mapped
