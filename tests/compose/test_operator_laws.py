"""The algebra of changes, for every operator: laws that hold bit for bit."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.adapters import METHODS
from modpkg.compose import rows
from modpkg.compose.composition import Term
from modpkg.compose.executor import compose
from modpkg.compose.operators import Effects, Operator, StepContext
from modpkg.core.errors import ComposeError, ModpkgError, ReleaseError
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Step
from tests.compose.helpers import PREFIX, base, module, planned, raw, values
from tests.raising import raises

ROWS, COLUMNS = 8, 6
T = "model.layers.0.q"
Draw = Callable[..., torch.Tensor]
FEW = settings(max_examples=5)


def lora(draw: Draw, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"lora_A.weight": draw(2, COLUMNS), "lora_B.weight": draw(ROWS, 2), **extra}


KINDS: dict[str, tuple[dict[str, Any], Callable[[Draw], dict[str, torch.Tensor]]]] = {
    "lora": ({"r": 2, "lora_alpha": 4}, lora),
    "dora": (
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True},
        lambda draw: lora(draw, lora_magnitude_vector=draw(ROWS).abs()),
    ),
    "ia3": ({"feedforward_modules": []}, lambda draw: {"ia3_l": draw(ROWS, 1)}),
    "loha": (
        {"r": 2, "alpha": 3},
        lambda draw: {
            **{f"hada_w{n}_a": draw(ROWS, 2) for n in "12"},
            **{f"hada_w{n}_b": draw(2, COLUMNS) for n in "12"},
        },
    ),
    "lokr": (
        {"r": 2, "alpha": 3},
        lambda draw: {"lokr_w1": draw(2, 3), "lokr_w2": draw(4, 2)},
    ),
    "oft": ({}, lambda draw: {"oft_R.weight": draw(3, 1)}),
    "boft": ({}, lambda draw: {"boft_R": draw(1, 3, 2, 2), "boft_s": draw(ROWS, 1)}),
    "hra": ({}, lambda draw: {"hra_u": draw(COLUMNS, 2)}),
    "hira": ({}, lambda draw: {"hira_A": draw(2, COLUMNS), "hira_B": draw(ROWS, 2)}),
    "miss": ({}, lambda draw: {"miss_block": draw(4, ROWS)}),
    "shira": (
        {},
        lambda draw: {
            "shira_weight": draw(3),
            "shira_indices": torch.tensor([[7, 0, 3], [1, 5, 2]]),
        },
    ),
    "vera": (
        {},
        lambda draw: {"vera_lambda_b": draw(ROWS), "vera_lambda_d": draw(2)},
    ),
    "kasa": (
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "kasa_config": {"beta": 1e-4}},
        lambda draw: lora(draw, lora_diag=draw(2)),
    ),
    "bdlora": (
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_bdlora": {"nblocks": 2}},
        lambda draw: {"lora_A.weight": draw(2, 3), "lora_B.weight": draw(ROWS, 2)},
    ),
    "randlora": (
        {"r": 2, "randlora_alpha": 2},
        lambda draw: {"randlora_lambda": draw(2, 3), "randlora_gamma": draw(3, COLUMNS)},
    ),
    "gralora": (
        {"r": 2, "gralora_k": 2, "alpha": 3},
        lambda draw: {"gralora_A": draw(2, 3, 2), "gralora_B": draw(2, 2, 4)},
    ),
    "fourierft": ({"scaling": 9.0}, lambda draw: {"fourierft_spectrum": draw(5)}),
    "waveft": ({"wavelet_family": "db2"}, lambda draw: {"waveft_spectrum": draw(5)}),
    "road": ({"group_size": 4}, lambda draw: {"road_theta": draw(4), "road_alpha": draw(4)}),
    "psoft": (
        {"r": 2},
        lambda draw: {
            "psoft_R.weight": draw(1),
            "psoft_R.vector_a": draw(2),
            "psoft_R.vector_b": draw(2),
        },
    ),
    "osf": (
        {},
        lambda draw: {
            "osf_svd_params.U_low": draw(ROWS, 2),
            "osf_svd_params.S_low": draw(2),
            "osf_svd_params.V_low": draw(2, COLUMNS),
        },
    ),
    "frod": (
        {},
        lambda draw: {"frod_lambda_l": draw(COLUMNS), "frod_lambda_s_values": draw(2)},
    ),
    "deft": ({}, lambda draw: {"deft_P": draw(ROWS, 2), "deft_R": draw(2, COLUMNS)}),
    "glora": (
        {},
        lambda draw: {
            **{f"glora_{path}.Xd": draw(ROWS, 2) for path in "AB"},
            **{f"glora_{path}.Xu": draw(2, COLUMNS) for path in "AB"},
            "glora_C.zeros": torch.zeros(COLUMNS, 1),
            **{f"glora_{path}.zeros": torch.zeros(ROWS) for path in "DE"},
        },
    ),
    "peanut": (
        {"act_fn": "silu", "depth": 1},
        lambda draw: {
            "peanut_A.weight": draw(2, ROWS),
            "peanut_B.weight": draw(ROWS, 2),
            "peanut_encoders.0.weight": draw(2, 2),
            "peanut_decoders.0.weight": draw(2, 2),
        },
    ),
    "supertuning": (
        {"r": 2, "lora_alpha": 3},
        lambda draw: {
            "supertuning_values": draw(3),
            "supertuning_indices": torch.tensor([40, 3, 11], dtype=torch.int32),
            "supertuning_lora_A.weight": draw(2, COLUMNS),
            "supertuning_lora_B.weight": draw(ROWS, 2),
        },
    ),
    "ln_tuning": ({}, lambda draw: {"ln_tuning_layers.weight": draw(ROWS, COLUMNS)}),
    "trainable_tokens": (
        {"token_indices": [6, 1]},
        lambda draw: {"trainable_tokens_delta": draw(2, COLUMNS)},
    ),
    "dense": ({}, lambda draw: {f"{T}.weight": draw(ROWS, COLUMNS)}),
    "sparse": (
        {},
        lambda draw: {
            f"{T}.weight.indices": torch.tensor([40, 3, 11]),
            f"{T}.weight.values": draw(3),
        },
    ),
}


SHARED: dict[str, Callable[[Draw], dict[str, torch.Tensor]]] = {
    "vera": lambda draw: {"vera_A": draw(2, 9), "vera_B": draw(9, 2)},
    "randlora": lambda draw: {"randlora_A": draw(2, 1, 7), "randlora_B": draw(9, 4, 2)},
    "frod": lambda draw: {
        "frod_V.q": draw(COLUMNS, COLUMNS),
        "frod_s_indices.q": torch.tensor([[0, 3], [1, 5]]),
        "frod_s_size.q": torch.tensor([COLUMNS, COLUMNS]),
    },
}


class World:
    def __init__(self, kind: str, seed: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.folder = Path(tempfile.mkdtemp())
        self.kind = kind
        self.base = base(self.folder, {f"{T}.weight": draw(ROWS, COLUMNS).to(dtype)})
        self.modules = [self._module(name, draw) for name in ("one", "two")]

    def _module(self, name: str, draw: Draw) -> InstalledModule:
        config, tensors_of = KINDS[self.kind]
        tensors = tensors_of(draw)
        if self.kind in ("dense", "sparse"):
            return module(self.folder, name, "patch", tensors)
        tensors = {f"{PREFIX}{T}.{part}": tensor for part, tensor in tensors.items()}
        shared = SHARED.get(self.kind, lambda draw: {})(draw)
        tensors |= {f"base_model.{part}": tensor for part, tensor in shared.items()}
        settings = {"peft_type": self.kind.upper(), **config}
        return module(self.folder, name, "adapter", tensors, adapter_config=settings)

    def weight(self, *steps: tuple[str, float], threads: int = 1, on: bool = True) -> bytes:
        """Return the bytes of the composed weight, computed again."""
        method = METHODS.get(KINDS[self.kind][0].get("peft_type", self.kind.upper()))
        op = self.kind if method is None else method.operator
        written = [
            Step(
                op=op,
                module=ModuleName(name),
                scale=scale,
                parameters={"on": "base"} if on else {},
            )
            for name, scale in steps
        ]
        composition = planned(self.base, *self.modules, steps=written)
        store = Path(tempfile.mkdtemp())
        return raw(compose(composition, store, threads=threads).tensors[f"{T}.weight"])

    def original(self) -> bytes:
        return raw(self.base.tensors[f"{T}.weight"])


SEEDS = st.integers(0, 1000)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
SCALES = st.sampled_from([0.25, -1.5, 2.0])


@pytest.mark.parametrize("kind", KINDS)
@given(SEEDS, DTYPES, SCALES)
@FEW
def test_laws(kind: str, seed: int, dtype: torch.dtype, scale: float) -> None:
    w = World(kind, seed, dtype)
    alone = w.weight(("one", 1.0))
    assert alone != w.original()
    assert w.weight(("one", 0.0)) == w.original()
    assert w.weight(("one", 1.0), ("two", 0.0)) == alone
    assert w.weight(("one", scale), ("one", -scale)) == w.original()
    assert w.weight(("one", scale), ("two", 1.0), ("one", -scale)) == w.weight(("two", 1.0))
    assert w.weight(("one", 0.5), ("one", 0.5)) == alone
    both = w.weight(("one", scale), ("two", 1.0))
    assert w.weight(("two", 1.0), ("one", scale)) == both
    assert w.weight(("one", scale), ("two", 1.0), threads=3) == both


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elements", [1, 18, 30])
def test_the_size_of_blocks_changes_nothing(
    kind: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = World(kind, 3)
    whole = w.weight(("one", 1.0))
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", elements)
    assert w.weight(("one", 1.0)) == whole


@pytest.mark.parametrize("kind", ["dense", "ln_tuning"])
@given(SEEDS, DTYPES)
@FEW
def test_a_whole_value_alone_is_the_result(kind: str, seed: int, dtype: torch.dtype) -> None:
    w = World(kind, seed, dtype)
    (value,) = values(w.modules[0].tensors).values()
    got = torch.frombuffer(bytearray(w.weight(("one", 1.0))), dtype=dtype)
    assert torch.equal(got.view(ROWS, COLUMNS), value.to(dtype))


MULTIPLYING = (
    *("dora", "ia3", "oft", "boft", "hra", "hira", "kasa", "road", "psoft", "osf", "frod", "deft"),
    *("glora", "peanut"),
)


@pytest.mark.parametrize("kind", MULTIPLYING)
def test_a_multiplying_change_needs_on_base_beside_another(kind: str) -> None:
    w = World(kind, 1)
    w.weight(("one", 1.0), on=False)
    w.weight(("one", 0.5), ("one", 0.5), on=False)
    with raises("M601", match=r'one.*multiplies .*two.*on = "base"'):
        w.weight(("one", 1.0), ("two", 1.0), on=False)


NULL = {
    "lora": "lora_B.weight",
    "loha": "hada_w2_a",
    "lokr": "lokr_w1",
    "oft": "oft_R.weight",
    "vera": "vera_lambda_b",
    "randlora": "randlora_lambda",
    "fourierft": "fourierft_spectrum",
    "waveft": "waveft_spectrum",
    "bdlora": "lora_B.weight",
    "miss": "miss_block",
    "shira": "shira_weight",
    "hira": "hira_B",
}


@pytest.mark.parametrize("kind", NULL)
def test_a_step_that_changes_nothing_is_an_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, tensors_of = KINDS[kind]
    role = NULL[kind]
    zero = (settings, lambda draw: {**(t := tensors_of(draw)), role: torch.zeros_like(t[role])})
    monkeypatch.setitem(KINDS, kind, zero)
    with raises("M601", match="step 1 changes nothing: one"):
        World(kind, 1).weight(("one", 1.0))


def test_a_merge_may_weigh_in_the_base_itself(tmp_path: Path) -> None:
    tensors = {f"{T}.weight": torch.ones(2, 2)}
    own, same = base(tmp_path, tensors), module(tmp_path, "same", "patch", tensors)
    plan = planned(own, same, steps=[Step(op="dense", module=ModuleName("same"))])
    result = compose(plan, tmp_path / "store").tensors[f"{T}.weight"]
    assert raw(result) == raw(own.tensors[f"{T}.weight"])


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({f"{T}.weight.indices": torch.tensor([1])}, ReleaseError, "indices"),
        ({"x.indices": torch.tensor([1]), "x.values": torch.ones(1)}, ReleaseError, "no 'x'"),
        (
            {f"{T}.weight.indices": torch.tensor([1, 2]), f"{T}.weight.values": torch.ones(1)},
            ComposeError,
            "do not go together",
        ),
    ],
)
def test_sparse_tensors_come_in_pairs(
    tensors: dict[str, torch.Tensor], error: type[ModpkgError], message: str, tmp_path: Path
) -> None:
    own = base(tmp_path, {f"{T}.weight": torch.ones(4, 2)})
    odd = module(tmp_path, "odd", "patch", tensors)
    with pytest.raises(error, match=message):
        planned(own, odd, steps=[Step(op="sparse", module=ModuleName("odd"))])


@pytest.mark.parametrize(("indices", "message"), [([8, 1], "out of range"), ([3, 3], "twice")])
def test_sparse_indices_are_checked(indices: list[int], message: str, tmp_path: Path) -> None:
    own = base(tmp_path, {f"{T}.weight": torch.ones(4, 2)})
    tensors = {
        f"{T}.weight.indices": torch.tensor(indices),
        f"{T}.weight.values": torch.ones(2),
    }
    odd = module(tmp_path, "odd", "patch", tensors)
    plan = planned(own, odd, steps=[Step(op="sparse", module=ModuleName("odd"))])
    with raises("M601", match=message):
        compose(plan, tmp_path / "store")


def replacing(tmp_path: Path, *shape: int, name: str = f"{T}.weight", **step: Any) -> bytes:
    own = base(tmp_path, {f"{T}.weight": torch.ones(4, 2)})
    one = module(tmp_path, "one", "patch", {name: torch.full(shape, 2.0)})
    plan = planned(own, one, steps=[Step(op="replace", module=ModuleName("one"), **step)])
    return raw(compose(plan, tmp_path / "store").tensors[f"{T}.weight"])


def test_replace_takes_whole_tensors(tmp_path: Path) -> None:
    assert replacing(tmp_path, 4, 2) == torch.full((4, 2), 2.0).numpy().tobytes()


def test_replace_checks_names_shapes_and_scale(tmp_path: Path) -> None:
    with raises("M604"):
        replacing(tmp_path / "a", 4, 3)
    with raises("M601", match="does not have"):
        replacing(tmp_path / "b", 4, 2, name="other")
    with raises("M601", match="a scale"):
        replacing(tmp_path / "c", 4, 2, scale=0.5)


def test_a_tensor_is_not_replaced_twice_nor_replaced_and_changed(tmp_path: Path) -> None:
    own = base(tmp_path, {f"{T}.weight": torch.ones(8, 6)})
    one = module(tmp_path, "one", "patch", {f"{T}.weight": torch.zeros(8, 6)})
    two = module(tmp_path, "two", "patch", {f"{T}.weight": torch.full((8, 6), 3.0)})
    steps = [Step(op="replace", module=ModuleName(name)) for name in ("one", "two")]
    with raises("M601", match="also added by another step"):
        planned(own, one, two, steps=steps)
    mixed = [steps[0], Step(op="dense", module=ModuleName("two"))]
    with raises("M601", match="which another step replaces"):
        planned(own, one, two, steps=mixed)


@pytest.mark.parametrize("kind", ["lora", "ia3", "oft", "dense", "sparse"])
def test_nan_in_a_module_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, tensors_of = KINDS[kind]

    def broken(draw: Draw) -> dict[str, torch.Tensor]:
        tensors = tensors_of(draw)
        last = list(tensors)[-1]
        return {**tensors, last: tensors[last] * torch.nan}

    monkeypatch.setitem(KINDS, kind, (config, broken))
    with raises("M605", match="NaN or infinity"):
        World(kind, 1).weight(("one", 1.0))


def test_the_operator_is_the_adapters_own() -> None:
    w = World("ia3", 1)
    step = Step(op="lora", module=ModuleName("one"))
    with raises("M601", match=r'of type IA3; write op = "ia3"'):
        planned(w.base, *w.modules, steps=[step])


def test_a_package_adds_an_operator_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind(context: StepContext) -> Effects:
        terms = {
            name: Term(op="times", weight=1.0, inputs={"factor": ref})
            for name, ref in context.module.tensors.items()
        }
        return Effects(terms=terms)

    def delta(inputs: Any, term: Term, start: int, stop: int, source: Any) -> Any:
        return source.peek(start, stop) * (inputs["factor"] - 1.0) * term.weight

    times = Operator(name="times", bind=bind, delta=delta, arrays=True, multiplies=True)
    point = SimpleNamespace(load=lambda: times)
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group, name: [point] if (group, name) == ("modpkg.operators", "times") else [],
    )
    own = base(tmp_path, {f"{T}.weight": torch.full((4, 2), 3.0)})
    one = module(tmp_path, "one", "patch", {f"{T}.weight": torch.tensor([2.0])})
    plan = planned(own, one, steps=[Step(op="times", module=ModuleName("one"), scale=0.5)])
    result = compose(plan, tmp_path / "store", threads=1).tensors[f"{T}.weight"]
    assert raw(result) == torch.full((4, 2), 4.5).numpy().tobytes()
