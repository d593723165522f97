"""The algebra of adapters, as laws that hold bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.compose.executor import compose
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import DTypeName, Step
from tests.compose.helpers import adapter, base, planned, raw, values
from tests.compose.test_rounding import exact

Q = "model.layers.0.q"
NAMES = ("one", "two", "three")
STEPS = [("one", 0.3), ("two", -1.7), ("three", 1e-3)]
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
SCALES = st.floats(-2, 2, allow_subnormal=False)
MODEST = settings(max_examples=15)


class World:
    """A base and three adapters, drawn from a seed."""

    def __init__(self, folder: Path, seed: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.folder = folder
        weights = {f"{Q}.weight": draw(5, 7).to(dtype), "norm": draw(5).to(dtype)}
        self.base = base(folder, weights)
        self.modules: list[InstalledModule] = [
            adapter(folder, name, {Q: (draw(2, 7), draw(5, 2))}) for name in NAMES
        ]

    def weight(
        self, steps: Sequence[tuple[str, float]], dtype: DTypeName | None = None
    ) -> tuple[str, bytes]:
        """Return key and bytes of the composed weight."""
        written = [Step(op="lora", module=ModuleName(name), scale=scale) for name, scale in steps]
        composition = planned(self.base, *self.modules, steps=written, dtype=dtype)
        return composition.key, raw(compose(composition, self.folder).tensors[f"{Q}.weight"])

    def original(self) -> bytes:
        return raw(self.base.tensors[f"{Q}.weight"])


def world(seed: int, dtype: torch.dtype) -> World:
    return World(Path(tempfile.mkdtemp()), seed, dtype)


@MODEST
@given(st.integers(0, 1000), DTYPES)
def test_weight_zero_is_the_identity(seed: int, dtype: torch.dtype) -> None:
    w = world(seed, dtype)
    assert w.weight([("one", 0.0)])[1] == w.original()
    assert w.weight([("one", 1.0), ("two", 0.0)]) == w.weight([("one", 1.0)])


@MODEST
@given(st.integers(0, 1000), DTYPES, SCALES)
def test_a_change_and_its_opposite_cancel(seed: int, dtype: torch.dtype, scale: float) -> None:
    w = world(seed, dtype)
    assert w.weight([("one", scale), ("one", -scale)])[1] == w.original()
    assert w.weight([("one", scale), ("two", 1.0), ("one", -scale)]) == w.weight([("two", 1.0)])


@MODEST
@given(
    st.integers(0, 1000), DTYPES, st.permutations(list(zip(NAMES, (0.3, -1.7, 1e-3), strict=True)))
)
def test_the_order_of_steps_changes_nothing(
    seed: int, dtype: torch.dtype, steps: list[tuple[str, float]]
) -> None:
    w = world(seed, dtype)
    assert w.weight(steps) == w.weight(sorted(steps))


@MODEST
@given(st.integers(0, 1000), DTYPES, st.sampled_from([0.25, 0.5, 1.0]))
def test_equal_steps_add_up(seed: int, dtype: torch.dtype, scale: float) -> None:
    w = world(seed, dtype)
    assert w.weight([("one", scale), ("one", scale)]) == w.weight([("one", 2 * scale)])


@MODEST
@given(st.integers(0, 1000), st.sampled_from(["bfloat16", "float16"]), SCALES)
def test_the_result_is_the_correctly_rounded_sum(seed: int, dtype: DTypeName, scale: float) -> None:
    """Against fractions: exact products, exact sums, one rounding at the end."""
    w = world(seed, torch.float32)
    _, data = w.weight([("one", scale), ("two", 1.0)], dtype)
    target = getattr(torch, dtype)
    got = torch.frombuffer(bytearray(data), dtype=target).double().tolist()
    total = [Fraction(v) for v in values(w.base.tensors)[f"{Q}.weight"].flatten().tolist()]
    for module, factor in ((w.modules[0], scale), (w.modules[1], 1.0)):
        found = values(module.tensors)
        a = next(t for n, t in found.items() if "lora_A" in n).tolist()
        b = next(t for n, t in found.items() if "lora_B" in n).tolist()
        weight = Fraction(factor * 2.0)
        for row in range(5):
            for column in range(7):
                products = (Fraction(b[row][k]) * Fraction(a[k][column]) for k in range(2))
                total[row * 7 + column] += weight * sum(products)
    assert got == [exact(float(value), target) for value in total]


@MODEST
@given(st.integers(0, 1000), st.sampled_from(["bfloat16", "float16", "float32"]))
def test_a_dtype_alone_rounds_the_base_once(seed: int, dtype: DTypeName) -> None:
    w = world(seed, torch.float32)
    _, data = w.weight([], dtype)
    wanted = values(w.base.tensors)[f"{Q}.weight"].to(getattr(torch, dtype))
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=wanted.dtype).view(5, 7), wanted)
