"""Formulas in exact arithmetic: what `delta` approximates, within the bound that it states."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import Struct

from modpkg.adapters.formula import Elements, Extent, Sizes, largest
from modpkg.compose.exact_numbers import Exact
from modpkg.compose.operators import OPERATORS


class FormulaTerm(Struct):
    """What a formula is computed with."""

    weight: float
    parameters: dict[str, Any]


class Rows:
    """The base for formulas on arrays."""

    def __init__(self, values: Any) -> None:
        self._matrix = values.reshape(len(values), -1)
        self.shape, self.count, self.columns = values.shape, values.size, self._matrix.shape[1]

    def peek(self, start: int, stop: int) -> Any:
        return self._matrix[start:stop]


def block(first: int, stop: int, begin: int, weight: float) -> dict[str, Any]:
    return {
        "first": first,
        "stop": stop,
        "begin": begin,
        "op": "lora",
        "weight": weight,
        "parameters": {},
    }


LOHA = {"w1_a": (6, 3), "w1_b": (3, 5), "w2_a": (6, 3), "w2_b": (3, 5)}
CORES = {
    **{f"w{n}_a": (3, 6) for n in "12"},
    **{f"w{n}_b": (3, 5) for n in "12"},
    **{f"t{n}": (3, 3, 2, 3) for n in "12"},
}
VERA = {"a": (3, 7), "b": (8, 3), "lambda_d": (3,), "lambda_b": (6,)}
EXPERTS = {"a": (6, 5), "b": (4, 6)}
PAIR = {"0.a": (3, 5), "0.b": (6, 3), "1.a": (2, 5), "1.b": (6, 2)}
TUCKER = {"t2": (2, 3, 2, 3), "w2_a": (2, 3), "w2_b": (3, 2)}
GENERAL = {"general_a": (3, 4), "general_b": (6, 3)}
PLACED = {"gaps": [0.0, 3.0, 2.0], "values": (3,)}
CASES: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
    ("lora", (6, 5), {"a": (3, 5), "b": (6, 3)}, {}),
    ("lora", (6, 5), {"a": (3, 6), "b": (5, 3)}, {"transposed": True}),
    ("lora", (6, 5), {"a": (3, 5), "b": (6, 3), "e": (3, 1)}, {}),
    ("lora", (6, 5), {"a": (3, 5), "b": (6, 3), "values": (6, 5)}, {"scaling": 2.0}),
    ("lora", (6,), {"bias": (6,)}, {}),
    ("lora", (2, 20), EXPERTS, {"experts": 2, "stacked": True}),
    ("lora", (2, 20), EXPERTS, {"experts": 2, "stacked": True, "transposed": True}),
    ("lora", (3, 5), EXPERTS, {"experts": 2, "expert": 1, "begin": 1}),
    ("lora", (6, 2, 3, 3), {"a": (3, 2, 3, 3), "b": (6, 3, 1, 1)}, {}),
    ("dense", (6, 5), {"values": (6, 5)}, {}),
    ("sparse", (6, 5), {"indices": [3.0, 7.0, 1.0], "values": (3,)}, {}),
    ("bdlora", (6, 8), {"a": (4, 4), "b": (6, 4)}, {"blocks": 2, "diagonal": "a"}),
    ("ia3", (6, 5), {"l": (6, 1)}, {}),
    ("ia3", (6, 5), {"l": (1, 5)}, {"columns": True}),
    ("ia3", (6, 2, 3, 3), {"l": (1, 4, 1, 1)}, {"columns": True}),
    ("vera", (6, 5), VERA, {}),
    ("vera", (5, 6), VERA, {"transposed": True}),
    ("loha", (6, 5), LOHA, {}),
    ("loha", (6, 5, 2, 3), CORES, {}),
    ("hira", (6, 5), {"a": (3, 5), "b": (6, 3)}, {}),
    ("patch", (6, 5), {"a": (3, 5), "b": (6, 3), **PLACED}, {}),
    ("patch", (6, 5), PLACED, {}),
    ("patch", (6, 5), {"rows": (6,)}, {}),
    ("patch", (6, 5), {"columns": (5,), **PLACED}, {}),
    ("patch", (6, 5), {"whole": (6, 5)}, {}),
    ("lokr", (6, 10), {"w1": (2, 5), "w2": (3, 2)}, {}),
    ("lokr", (6, 10), {"w1_a": (2, 3), "w1_b": (3, 5), "w2_a": (3, 2), "w2_b": (2, 2)}, {}),
    ("lokr", (6, 4, 2, 3), {"w1": (2, 2), "w2": (3, 2, 2, 3)}, {}),
    ("lokr", (6, 4, 3), {"w1": (2, 2), "w2": (3, 2, 3)}, {}),
    ("lokr", (6, 4, 2, 3), {"w1": (2, 2), **TUCKER}, {}),
    ("gralora", (6, 4), {"a": (2, 2, 4), "b": (2, 4, 3)}, {}),
    ("gralora", (4, 6), {"a": (2, 2, 4), "b": (2, 4, 3), **GENERAL}, {"transposed": True}),
    ("qalora", (6, 8), {"a": (3, 4), "b": (6, 3)}, {"group": 2}),
    ("c3a", (6, 9), {"kernel": (2, 3, 3)}, {}),
    ("glora", (6, 5), {"AXd": (6, 2), "AXu": (2, 5), "BX": (6, 1)}, {}),
    ("glora", (6, 5), {"AX": (1,), "BXd": (6, 2), "BXu": (2, 5)}, {}),
    ("glora", (6, 5), {"Azeros": (6, 5), "BX": (1,)}, {}),
    ("parts", (6, 5), PAIR, {"blocks": [block(0, 2, 1, 2.0), block(3, 6, 0, 1.0)]}),
    ("parts", (6, 10), PAIR, {"blocks": [block(0, 4, 1, 2.0), block(6, 12, 0, 1.0)], "width": 5}),
]


def copied(inputs: dict[str, Any], *, arrays: bool) -> dict[str, Any]:
    return {k: v.copy() if arrays else torch.from_numpy(v.copy()) for k, v in inputs.items()}


@pytest.mark.parametrize(("op", "shape", "shapes", "parameters"), CASES)
def test_deltas_are_within_their_bound(
    op: str, shape: tuple[int, ...], shapes: dict[str, Any], parameters: dict[str, Any]
) -> None:
    rng = np.random.default_rng(len(shapes))
    operator = OPERATORS[op]
    assert operator.delta is not None
    assert operator.exact is not None
    assert operator.error is not None
    inputs = {
        role: np.array(size) if isinstance(size, list) else rng.standard_normal(size)
        for role, size in shapes.items()
    }
    base = rng.standard_normal(shape)
    term = FormulaTerm(0.3, parameters)
    source = Rows(base) if operator.arrays else torch.from_numpy(base)
    ready: dict[str, Any] = copied(inputs, arrays=operator.arrays)
    if operator.prepare is not None:
        ready = dict(operator.prepare(ready, term, source))
    given = inputs if operator.prepare_rounds else ready
    exact = {role: np.asarray(each).copy() for role, each in given.items()}
    change = np.asarray(operator.delta(ready, term, 0, shape[0], source)).reshape(-1)
    at = {k: v.reshape(-1) if k in operator.by_rows else v for k, v in exact.items()}
    number = Exact.of(base.reshape(-1))
    elements = Elements(np.arange(base.size), base[0].size, shape, number, Exact.of)
    numbers = operator.exact(at, term, elements).fractions()
    extents = {role: Extent(each.shape, largest(each)) for role, each in exact.items()}
    error = operator.error(extents, term, Sizes(largest(base), largest(change)))
    for own, wanted in zip(change, numbers, strict=True):
        off = abs(Fraction(own) - wanted)
        assert off <= Fraction(error.absolute) + Fraction(error.relative) * abs(Fraction(own))
        assert off < 1e-13
