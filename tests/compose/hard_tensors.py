"""Compositions whose elements are hard to round: ties, near ties, cancellations, zeros."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modpkg.compose.arrays import widened
from modpkg.compose.composition import Composition, ComputedTensor, Term
from modpkg.compose.reducers import find_reducer
from modpkg.compose.rounding import rounded
from modpkg.core.digests import digest_bytes
from modpkg.core.installed import TensorRef

ULP = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23, "F64": 2.0**-52}
"""The distance of the values in [1, 2)."""
METHODS: dict[str, list[dict[str, Any]]] = {
    "sum": [{}],
    "mean": [{}, {"with_base": False}],
    "linear": [{}, {"base_weight": 0.3}, {"normalize": False}],
    "task-arithmetic": [{}, {"lambda": 0.7}, {"normalize": True}],
    "fisher": [{}],
    "nearswap": [{"t": 0.01}],
    "ram": [{}],
    "ram-plus": [{}],
    "ramplus-tl": [{}, {"r": 0.7}],
    "ties": [{}, {"lambda": 0.5}],
    "ties-mergekit": [{}, {"normalize": False}, {"lambda": 0.3}],
    "ties-peft": [{}, {"majority_sign": "frequency"}],
    "dare-linear": [{"seed": 3}, {"rescale": False}],
    "dare-ties": [{}, {"normalize": True}],
    "breadcrumbs": [{}],
    "breadcrumbs-ties": [{"normalize": True}],
}
"""Methods with exact results, and their parameters."""
_DENSITY = 0.4


class Inputs:
    """Tensors in files of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def tensor(self, values: Any, dtype: str) -> TensorRef:
        """Return values, rounded to a dtype, as a stored tensor."""
        stored = rounded(np.asarray(values, np.float64), dtype)
        data = stored.tobytes()
        path = self._folder / hashlib.sha256(data + str((stored.shape, dtype)).encode()).hexdigest()
        path.write_bytes(data)
        return TensorRef(
            file=str(path),
            offset=0,
            length=len(data),
            dtype=dtype,
            shape=list(stored.shape),
            digest="sha256:" + hashlib.sha256(data).hexdigest(),
        )


def base_values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Return values of [1, 2), of other sizes, and zeros of both signs."""
    values = rng.uniform(1, 2, shape) * rng.choice([1, -1], shape)
    kind = rng.integers(0, 12, shape)
    reach = 12 if dtype == "F16" else 100
    values = np.where(kind == 0, 0.0, values)
    values = np.where(kind == 1, -0.0, values)
    values = np.where(kind == 2, values * 2.0 ** rng.integers(-reach - 30, -reach, shape), values)
    values = np.where(kind == 3, values * 2.0 ** rng.integers(-reach, reach, shape), values)
    return np.where(kind == 4, rng.standard_normal(shape) * 0.02, values)


def fine_tuned(rng: np.random.Generator, base: TensorRef, dtype: str, inputs: Inputs) -> TensorRef:
    """Return a fine-tune: most values a few steps of its dtype away, others anywhere."""
    stored = np.fromfile(base.file, rounded(np.zeros(0), base.dtype).dtype)
    values = widened(stored, base).reshape(base.shape)
    steps = rng.integers(-6, 7, values.shape) * ULP[dtype]
    far = rng.integers(0, 9, values.shape) == 0
    moved = values * (1 + steps)
    return inputs.tensor(np.where(far, base_values(rng, values.shape, dtype), moved), dtype)


def factors(
    rng: np.random.Generator, rank: int, width: int, height: int, dtype: str, result: str
) -> tuple[Any, Any]:
    """Return A (rank, width) and B (height, rank): their product is half a step of the result's
    dtype in [1, 2), a little more, a little less, or nothing, and other numbers in some rows."""
    a, b = np.zeros((rank, width)), np.zeros((height, rank))
    a[0], b[:, 0] = 1.0, rng.choice([0.5, -0.5, 1.0, 0.0, 1.5], height) * ULP[result]
    a[1] = rng.choice([0.0, 1.0, -1.0], width)
    b[:, 1] = rng.choice([0.0, 1.0], height) * 2.0 ** rng.integers(-80, -20, height)
    some = rng.integers(0, 3, height) == 0
    a[2:] = rng.standard_normal((rank - 2, width))
    b[some, 2:] = rng.standard_normal((int(some.sum()), rank - 2)) * 0.02
    return a, b


def low_rank_tensors(
    inputs: Inputs, seed: int = 0, height: int = 12, width: int = 28
) -> Iterator[tuple[str, ComputedTensor]]:
    """Yield tensors with one or two LoRAs, in every layout and dtype."""
    rng = np.random.default_rng(seed)
    layouts = ("plain", "transposed", "conv", "stacked", "stacked transposed", "expert", "e", "two")
    for (base, own, result), layout in itertools.product(
        [
            ("BF16", "F32", "BF16"),
            ("BF16", "BF16", "BF16"),
            ("F16", "F32", "F16"),
            ("F32", "F32", "F32"),
            ("F16", "F16", "BF16"),
            ("BF16", "F32", "F32"),
            ("F32", "BF16", "F16"),
        ],
        layouts,
    ):
        weight = float(rng.choice([1.0, 0.5, 2.0, 0.3, -1.7, 8 / 3]))
        parameters: dict[str, Any] = {}
        extra: dict[str, TensorRef] = {}
        rank, shape = 5, (height, width)
        a, b = factors(rng, rank, width, height, own, result)
        if layout == "transposed":
            parameters = {"transposed": True}
            a, b = b.T, a.T
        elif layout == "conv":
            shape = (height, width // 4, 2, 2)
            a, b = a.reshape(rank, width // 4, 2, 2), b.reshape(height, rank, 1, 1)
        elif layout.startswith("stacked"):
            experts = 3
            pairs = [factors(rng, rank, width, height, own, result) for _ in range(experts)]
            a = np.concatenate([each for each, _ in pairs])
            b = np.stack([each for _, each in pairs], axis=2).reshape(height, rank * experts)
            shape = (experts, height, width)
            parameters = {"experts": experts, "stacked": True}
            if layout != "stacked":
                parameters["transposed"], shape = True, (experts, width, height)
        elif layout == "expert":
            pairs = [factors(rng, rank, width, height + 4, own, result) for _ in range(2)]
            a = np.concatenate([each for each, _ in pairs])
            b = np.stack([each for _, each in pairs], axis=2).reshape(height + 4, rank * 2)
            parameters = {"experts": 2, "expert": 1, "begin": 4}
        elif layout == "e":
            extra = {"e": inputs.tensor(rng.choice([1.0, 0.5, 0.7], (rank, 1)), own)}
        terms = [
            Term(
                op="lora",
                weight=weight,
                inputs={"a": inputs.tensor(a, own), "b": inputs.tensor(b, own), **extra},
                parameters=parameters,
            )
        ]
        if layout == "two":
            a, b = factors(rng, rank + 2, width, height, own, result)
            pair = {"a": inputs.tensor(a, own), "b": inputs.tensor(b, own)}
            terms.append(Term(op="lora", weight=-0.9, inputs=pair))
        narrowest = result if result == "F16" else base  # no value may be too large for it
        source = inputs.tensor(base_values(rng, shape, narrowest), base)
        name = f"{layout}, {base} and {own} to {result}"
        yield name, ComputedTensor(source=source, dtype=result, terms=tuple(terms))


def merged_tensors(
    inputs: Inputs, method: str, parameters: Mapping[str, Any], seed: int = 0, count: int = 900
) -> Iterator[tuple[str, ComputedTensor]]:
    """Yield tensors merged by a method from fine-tunes, in every dtype."""
    rng = np.random.default_rng(seed)
    reducer = find_reducer(method, "model")
    step = dict(reducer.step_defaults)
    if "density" in step:
        step["density"] = _DENSITY
    if "epsilon" in step:
        step["epsilon"] = ULP["BF16"]  # as large as many changes
    settings = {**reducer.defaults, **parameters}
    weights = [(0.5, 0.5), (0.3, 0.7), (1.0,), (0.37, -0.2, 1.1), (1 / 3, 1 / 3, 1 / 3)]
    alike = [(1.0,)] if reducer.steps == (1, 1) else [(1.0, 1.0), (1.0, 1.0, 1.0)]
    if reducer.across:  # each tensor has a term for each step
        alike = alike[-1:]
    for (dtype, result), each in itertools.product(
        [("BF16", "BF16"), ("F16", "F16"), ("F32", "F32"), ("BF16", "F32"), ("F32", "BF16")],
        weights if reducer.weighted else alike,
    ):
        source = inputs.tensor(base_values(rng, (count // 30, 30), dtype), dtype)
        folded = method == "sum"
        terms = tuple(
            Term(
                op="dense",
                weight=weight if folded else 1.0,
                scale=1.0 if folded else weight,
                inputs={"values": fine_tuned(rng, source, dtype, inputs)},
                settings=step,
            )
            for weight in each
        )
        yield (
            f"{dtype} to {result} with {each}",
            ComputedTensor(
                source=source, dtype=result, terms=terms, reducer=method, settings=settings
            ),
        )


def composition_of(name: str, computed: Mapping[str, ComputedTensor]) -> Composition:
    """Return a composition of tensors, as if it was planned."""
    return Composition(
        name=name,
        version="1",
        key=digest_bytes(name.encode()),
        kept={},
        computed=dict(computed),
        config={},
        files={},
    )


def plain_product() -> str:
    """Return the digest of a product that numpy computes in float64, which depends on the BLAS."""
    one, other = np.linspace(-1, 2, 9000), np.linspace(-3, 2, 9000)
    return digest_bytes((one.reshape(30, 300) @ other.reshape(300, 30)).tobytes())


def few_compositions(folder: Path) -> list[Composition]:
    """Return a few tensors of every method, and LoRAs, one of them in float64; TIES' thresholds are
    of a whole model, so it has its own."""
    inputs, rng = Inputs(folder), np.random.default_rng(4)
    tensors = dict(itertools.islice(low_rank_tensors(inputs), 8))
    pair = {"a": (9, 70), "b": (60, 9)}
    double = Term(
        op="lora",
        weight=0.3,
        inputs={
            role: inputs.tensor(rng.standard_normal(size), "F32") for role, size in pair.items()
        },
    )
    source = inputs.tensor(rng.standard_normal((60, 70)), "F32")
    tensors["float64"] = ComputedTensor(source=source, dtype="F64", terms=(double,))
    for method, (parameters, *_) in METHODS.items():
        if not find_reducer(method, "model").across:
            name, computed = next(merged_tensors(inputs, method, parameters, count=240))
            tensors[f"{method}, {name}"] = computed
    ties = dict(itertools.islice(merged_tensors(inputs, "ties", {}, count=240), 2))
    return [composition_of("mixed", tensors), composition_of("ties", ties)]


def hard_compositions(folder: Path, seed: int = 0) -> Iterator[Composition]:
    """Yield a composition of LoRAs, and one for each method and its parameters."""
    inputs = Inputs(folder)
    yield composition_of("lora", dict(low_rank_tensors(inputs, seed)))
    for method, sets in METHODS.items():
        for parameters in sets:
            label = ", ".join(f"{key} = {value}" for key, value in parameters.items())
            tensors = dict(merged_tensors(inputs, method, parameters, seed))
            yield composition_of(f"{method} {label}".strip(), tensors)
