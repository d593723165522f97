"""Hard elements by the millions: compositions against exact arithmetic, and against fractions.

    python -m benchmarks.exactness [--elements 2000000] [--seed 0]

Near ties of the result's dtype, cancellations, subnormals, huge and tiny values: each result is
computed as `install` does, again by `ExactTensor.at` for every element, and with Python's
fractions, which share no code with either. Writes ``benchmarks/results/exactness.md``, and fails if
any two differ.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from benchmarks.machine import described
from modpkg.compose.arrays import STORED, widened
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor, Term
from modpkg.compose.tensor import Reduction
from modpkg.core.installed import TensorRef
from tests.compose.hard_tensors import ULP, Inputs, base_values, factors
from tests.compose.test_exact import METHODS, as_double, job_of, merged_model, nearest

PAGE = Path(__file__).parent / "results" / "exactness.md"
DTYPES = [
    ("BF16", "F32", "BF16"),
    ("BF16", "BF16", "BF16"),
    ("F16", "F16", "F16"),
    ("F32", "F32", "F32"),
    ("BF16", "F32", "F32"),
    ("F32", "BF16", "F16"),
    ("F64", "F64", "F64"),
]
"""Of the base, of the adapter and of the result."""
POWERS = {
    "BF16": (90, -100, -126, -130),
    "F32": (90, -100, -126, -140),
    "F16": (8, -8, -14, -20),
    "F64": (900, -900, -1022, -1060),
}
"""By which rows are scaled, so that results are huge, tiny and subnormal."""
ROWS, COLUMNS, RANK = 40, 50, 4


class Case(Struct):
    """One tensor, and its results in fractions."""

    computed: ComputedTensor
    results: list[Fraction]


class Tally(Struct):
    """What was found of one kind of tensors."""

    elements: int = 0
    left: int = 0
    """Of these, how many float64 could not decide."""
    unlike_exact: int = 0
    unlike_fractions: int = 0


_fractions = np.frompyfunc(Fraction, 1, 1)


def numbers(ref: TensorRef) -> Any:
    """Return a stored tensor's values as fractions."""
    stored = np.fromfile(ref.file, STORED[ref.dtype])
    return _fractions(widened(stored, ref)).reshape(ref.shape)


# Operators: values that are hard for the result's dtype, and the change in fractions ------------

Draw = Callable[[np.random.Generator, str, str], dict[str, Any]]
Change = Callable[[Any, Mapping[str, Any]], Any]


def _pair(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    a, b = factors(rng, RANK, COLUMNS, ROWS, own, result)
    return {"a": a, "b": b}


def _transposed(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    a, b = factors(rng, RANK, ROWS, COLUMNS, own, result)
    return {"a": a, "b": b}


def _ones(rng: np.random.Generator) -> tuple[Any, Any]:
    """Return factors whose product is 1, and other numbers in some rows."""
    a, b = np.zeros((ROWS, RANK)), np.zeros((RANK, COLUMNS))
    a[:, 0], b[0] = 1.0, 1.0
    a[::5], b[1:] = rng.standard_normal((ROWS // 5, RANK)), rng.standard_normal((RANK - 1, COLUMNS))
    return a, b


def _hadamard(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    b, a = factors(rng, RANK, COLUMNS, ROWS, own, result)
    one, other = _ones(rng)
    return {"w1_a": a, "w1_b": b, "w2_a": one, "w2_b": other}


def _vera(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    return _pair(rng, own, result) | {
        "lambda_d": rng.choice([1.0, 0.5, 0.7], RANK),
        "lambda_b": rng.choice([1.0, -2.0, 0.3], ROWS),
    }


def _steps(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    return {"l": 1 + rng.integers(-3, 4, (ROWS, 1)) * ULP[result] / 2}


def _lora_change(base: Any, of: Mapping[str, Any]) -> Any:
    return of["b"] @ of["a"]


def _loha_change(base: Any, of: Mapping[str, Any]) -> Any:
    return (of["w1_a"] @ of["w1_b"]) * (of["w2_a"] @ of["w2_b"])


def _vera_change(base: Any, of: Mapping[str, Any]) -> Any:
    return of["lambda_b"][:, None] * (of["b"] @ (of["lambda_d"][:, None] * of["a"]))


def _kronecker(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    b, a = factors(rng, RANK, COLUMNS // 5, ROWS // 4, own, result)
    return {"w1": rng.choice([1.0, -1.0, 0.5, 0.7], (4, 5)), "w2_a": a, "w2_b": b}


def _circulant(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    steps = rng.integers(-3, 4, (ROWS // 10, COLUMNS // 10, 10)) * ULP[result] / 2
    return {"kernel": COLUMNS * steps + rng.integers(-1, 2, steps.shape) * 2.0**-30}


def _circulant_change(base: Any, of: Mapping[str, Any]) -> Any:
    kernel = of["kernel"]
    rows = [np.roll(kernel[row // 10], row % 10, axis=1).reshape(-1) for row in range(ROWS)]
    return np.array(rows) / COLUMNS


def _scaled_and_moved(rng: np.random.Generator, own: str, result: str) -> dict[str, Any]:
    b, a = factors(rng, RANK, COLUMNS, ROWS, own, result)
    return {"AX": rng.integers(-2, 3, 1) * ULP[result] / 2, "BXd": a, "BXu": b}


OPERATORS: dict[str, tuple[str, Draw, Change, dict[str, Any]]] = {
    "lora": ("lora", _pair, _lora_change, {}),
    "lora, transposed": (
        "lora",
        _transposed,
        lambda base, of: _lora_change(base, of).T,
        {"transposed": True},
    ),
    "loha": ("loha", _hadamard, _loha_change, {}),
    "vera": ("vera", _vera, _vera_change, {}),
    "hira": ("hira", _pair, lambda base, of: base * _lora_change(base, of), {}),
    "ia3": ("ia3", _steps, lambda base, of: base * (of["l"] - 1), {}),
    "lokr": ("lokr", _kronecker, lambda base, of: np.kron(of["w1"], of["w2_a"] @ of["w2_b"]), {}),
    "c3a": ("c3a", _circulant, _circulant_change, {}),
    "glora": (
        "glora",
        _scaled_and_moved,
        lambda base, of: base * of["AX"] + of["BXd"] @ of["BXu"],
        {},
    ),
}
"""The operator, its inputs, its change of weight 1, and its parameters."""
SCALED = {
    "lora": "b",
    "loha": "w1_a",
    "vera": "lambda_b",
    "lokr": "w1",
    "c3a": "kernel",
    "glora": "BXd",
}
"""The input that is scaled with the base, by rows, where the change is no multiple of it."""


def operator_case(
    name: str, dtypes: tuple[str, str, str], inputs: Inputs, rng: np.random.Generator
) -> Case:
    """Return a tensor that one or two changes of an operator are added to."""
    own_base, own, result = dtypes
    op, draw, change, parameters = OPERATORS[name]
    alike = rng.integers(0, 4)  # a block has one bound: where sizes differ, it decides little
    powers = rng.choice([0, 0, 0, 0, *POWERS[result]], (ROWS if alike == 0 else 1, 1))
    powers = np.broadcast_to(powers, (ROWS, 1))
    scale = 2.0 ** powers.astype(float)
    narrowest = result if result == "F16" else own_base
    values = rng.uniform(1, 2, (ROWS, COLUMNS)) * rng.choice([1, -1], (ROWS, COLUMNS)) * scale
    if rng.integers(0, 2):
        values = np.where(powers == 0, base_values(rng, values.shape, narrowest), values)
    source = inputs.tensor(values, own_base)
    base = numbers(source)
    total, terms = base, []
    for _ in range(int(rng.integers(1, 3))):
        weight = float(rng.choice([1.0, 0.5, 2.0, 0.3, -1.7, 8 / 3]))
        drawn = draw(rng, own, result)
        role = SCALED.get(op)
        if role is not None and not parameters:
            each = drawn[role]
            drawn[role] = each * scale[: len(each)].reshape(-1, *[1] * (each.ndim - 1))
        refs = {role: inputs.tensor(each, own) for role, each in drawn.items()}
        terms.append(Term(op=op, weight=weight, inputs=refs, parameters=parameters))
        of = {role: numbers(ref) for role, ref in refs.items()}
        total = total + Fraction(weight) * change(base, of)
    computed = ComputedTensor(source=source, dtype=result, terms=tuple(terms))
    return Case(computed, total.reshape(-1).tolist())


def merged_case(method: str, dtype: str, inputs: Inputs, rng: np.random.Generator) -> Case:
    """Return a tensor that a method merges from three models."""
    largest = float(rng.choice([4.0, 4.0, 2.0**120]))
    return Case(*merged_model(method, dtype, inputs, rng, 1500, largest))


# Comparing --------------------------------------------------------------------------------------


def cases(seed: int) -> Iterator[tuple[str, Callable[[Inputs], Case]]]:
    """Yield the kinds of tensors, and what makes one."""
    rng = np.random.default_rng(seed)
    for name in OPERATORS:
        for dtypes in DTYPES:
            yield f"{name} | {dtypes[2]}", lambda i, n=name, d=dtypes: operator_case(n, d, i, rng)  # type: ignore[misc]
    for method in METHODS:
        for dtype in ("BF16", "F16", "F32", "F64"):
            yield (
                f"{method} | {dtype}",
                lambda i, m=method, d=dtype: merged_case(m, d, i, rng),  # type: ignore[misc]
            )


def compare(case: Case, tally: Tally) -> None:
    """Compute a tensor in three ways, and count what differs."""
    computed, left = case.computed, 0
    job = job_of(computed)
    with np.errstate(all="ignore"), TensorBlocks("m", "t", computed) as blocks:
        reduction = Reduction(job, blocks)
        assert reduction.exact is not None
        exactly = reduction.exact.at

        def counted(places: Any) -> Any:
            nonlocal left
            left += len(places)
            return exactly(places)

        exact = exactly(np.arange(blocks.count))
        reduction.exact.at = counted  # type: ignore[method-assign]
        found = np.concatenate([block.reshape(-1).copy() for block in reduction])
    wanted = [nearest(each, computed.dtype) for each in case.results]
    values = as_double(found, computed.dtype)
    tally.elements += len(values)
    tally.left += left
    tally.unlike_exact += int((found.view("u1") != exact.view("u1")).sum())
    tally.unlike_fractions += sum(x != y for x, y in zip(values, wanted, strict=True))


def page(tallies: Mapping[str, Tally], seed: int, taken: float) -> str:
    """Return the table as Markdown."""
    total = sum(tally.elements for tally in tallies.values())
    lines = [
        "# Exactness",
        "",
        f"`python -m benchmarks.exactness --elements {total} --seed {seed}`; {described()}: "
        f"{total} elements in {taken:.0f} s.",
        "",
        "Near ties, cancellations, subnormals, huge and tiny values. Each result as `install` "
        "computes it, compared with exact arithmetic by element (bytes) and with Python's "
        "fractions (values). Left: elements that float64 with its bound did not decide. Of "
        "float8, arithmetic is refused (M201).",
        "",
        "| operator or method | result | elements | left | unlike `at` | unlike fractions |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, tally in tallies.items():
        share = f"{100 * tally.left / tally.elements:.1f} %"
        found = f"{tally.unlike_exact} | {tally.unlike_fractions}"
        lines.append(f"| {name} | {tally.elements} | {share} | {found} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--elements", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun, tallies, wrong = time.perf_counter(), dict[str, Tally](), list[str]()
    made = list(cases(options.seed))
    while sum(tally.elements for tally in tallies.values()) < options.elements and not wrong:
        for name, make in made:
            with tempfile.TemporaryDirectory() as folder:
                tally = tallies.setdefault(name, Tally())
                compare(make(Inputs(Path(folder))), tally)
            if tally.unlike_exact or tally.unlike_fractions:
                wrong.append(name)
    text = page(tallies, options.seed, time.perf_counter() - begun)
    print(text)
    if wrong:
        raise SystemExit("different: " + "; ".join(wrong))
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
