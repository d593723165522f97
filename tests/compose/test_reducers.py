"""Methods: laws that hold bit for bit, and formulas compared with other implementations."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import modpkg.compose.rows as rows_module
from modpkg.compose.arrays import Array
from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.compose.reducers import (
    REDUCERS,
    ApproximateMagnitudes,
    Contribution,
    Reducer,
    selection,
)
from modpkg.compose.reducers.selection import draw, kth_largest
from modpkg.compose.reducers.stream import draws_at, uniform
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Filtered, Step
from tests.compose.helpers import base, module, raw, values
from tests.raising import raises

SHAPES = {"model.layers.0.w": (13, 37), "model.layers.1.w": (5, 9), "norm": (11,)}
NAMES = ("one", "two", "three")
MODEST = settings(max_examples=8, deadline=None)
METHODS: dict[str, dict[str, Any]] = {
    "sum": {},
    "mean": {},
    "linear": {"base_weight": 0.5},
    "task-arithmetic": {"lambda": 0.7},
    "fisher": {"importance": 0.5},
    "ties": {"density": 0.4},
    "ties-mergekit": {"density": 0.4},
    "ties-peft": {"density": 0.4},
    "dare-linear": {"density": 0.4, "seed": 3.0},
    "dare-ties": {"density": 0.4},
    "della": {"density": 0.5, "epsilon": 0.2},
    "della-linear": {"density": 0.5, "epsilon": 0.2},
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "breadcrumbs-ties": {"density": 0.5, "gamma": 0.1},
    "model-stock": {},
    "karcher": {},
    "multislerp": {},
    "slerp": {"t": 0.3},
    "nuslerp": {},
    "sce": {"select_topk": 0.4},
    "arcee-fusion": {},
    "nearswap": {"t": 0.1},
    "ram": {"epsilon": 0.2},
    "ram-plus": {"epsilon": 0.2},
    "ramplus-tl": {"epsilon": 0.2},
}
UNWEIGHTED = [name for name in METHODS if not REDUCERS[name].weighted]
WEIGHTED = [name for name in METHODS if REDUCERS[name].weighted]
BY_BLOCKS = [name for name in METHODS if REDUCERS[name].measure is None or "ties" in name]
"""Methods whose sums are within a row."""


class World:
    """A base and three fine-tunes of it, drawn from a seed."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> None:
        self.folder = Path(tempfile.mkdtemp())
        generator = torch.Generator().manual_seed(seed)

        def draw(factor: float) -> dict[str, torch.Tensor]:
            return {
                name: torch.randn(shape, generator=generator, dtype=torch.float64) * factor
                for name, shape in SHAPES.items()
            }

        self.start = draw(1.0)
        own = {name: draw(0.3) for name in NAMES}
        self.weights = {
            name: {key: (self.start[key] + own[name][key]).to(dtype) for key in SHAPES}
            for name in NAMES
        }
        self.start = {key: tensor.to(dtype) for key, tensor in self.start.items()}
        self.modules: dict[str, InstalledModule] = {"base": base(self.folder, self.start)}
        for name in NAMES:
            self.add(name, self.weights[name])

    def add(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        self.modules[name] = module(self.folder, name, "base", tensors, config={})

    def plan(
        self, method: str, steps: dict[str, Any] | list[tuple[str, Any]], **parameters: Any
    ) -> Composition:
        pairs = steps.items() if isinstance(steps, dict) else steps
        recipe = Compose(
            base=ModuleName("base"),
            method=method,
            parameters=parameters,
            steps=tuple(
                Step(op="dense", module=ModuleName(name), scale=scale) for name, scale in pairs
            ),
        )
        return plan("model", "1", recipe, self.modules)

    def bytes(
        self, method: str, steps: Any, threads: int = 2, **parameters: Any
    ) -> dict[str, bytes]:
        composition = self.plan(method, steps, **parameters)
        store = Path(tempfile.mkdtemp())
        made = compose(composition, store, threads=threads).tensors
        return {name: raw(ref) for name, ref in made.items()}

    def values(self, method: str, steps: Any, **parameters: Any) -> dict[str, torch.Tensor]:
        composition = self.plan(method, steps, **parameters)
        return values(compose(composition, self.folder).tensors)

    def original(self) -> dict[str, bytes]:
        return {name: raw(ref) for name, ref in self.modules["base"].tensors.items()}


def taken(method: str) -> dict[str, float]:
    """Return as many steps as a method takes, with scales if it is weighted."""
    most = REDUCERS[method].steps[1] or 3
    scales = (0.3, 0.6, -0.2) if REDUCERS[method].weighted else (1.0, 1.0, 1.0)
    return dict(zip(NAMES[:most], scales, strict=False))


def test_every_method_is_tested() -> None:
    assert set(METHODS) == REDUCERS.keys() - {"passthrough"}


@pytest.mark.parametrize("method", WEIGHTED)
@MODEST
@given(seed=st.integers(0, 1000))
def test_weight_zero_is_the_identity(method: str, seed: int) -> None:
    world = World(seed)
    none = dict.fromkeys(taken(method), 0.0)
    assert world.bytes(method, none, **METHODS[method]) == world.original()


@pytest.mark.parametrize("method", [m for m in METHODS if REDUCERS[m].additive])
@MODEST
@given(seed=st.integers(0, 1000), scale=st.floats(-2, 2, allow_subnormal=False))
def test_a_change_and_its_opposite_cancel(method: str, seed: int, scale: float) -> None:
    world = World(seed)
    both = [("one", scale), ("two", 0.5), ("one", -scale)]
    alone = world.bytes(method, [("two", 0.5)], **METHODS[method])
    assert world.bytes(method, both, **METHODS[method]) == alone


@pytest.mark.parametrize("method", METHODS)
@MODEST
@given(seed=st.integers(0, 1000), data=st.data())
def test_order_changes_no_byte_and_no_key(method: str, seed: int, data: st.DataObject) -> None:
    world = World(seed)
    steps = list(taken(method).items())
    other = data.draw(st.permutations(steps))
    first, second = (world.plan(method, each, **METHODS[method]) for each in (steps, other))
    assert first.key == second.key
    assert world.bytes(method, other, **METHODS[method]) == world.bytes(
        method, steps, **METHODS[method]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("elements", [1, 40, 200])
def test_block_size_and_threads_change_no_byte(
    method: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(1)
    whole = world.bytes(method, taken(method), threads=1, **METHODS[method])
    if method in BY_BLOCKS:
        monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
    assert world.bytes(method, taken(method), threads=5, **METHODS[method]) == whole


@pytest.mark.parametrize("method", METHODS)
def test_merging_equal_models_gives_that_model(method: str) -> None:
    """Tensors that no fine-tune changes are the base's, whatever the method."""
    world = World(2)
    for name in NAMES:
        world.add(name, {**world.start, "norm": world.weights[name]["norm"]})
    got = world.bytes(method, taken(method), **METHODS[method])
    del got["norm"]
    original = world.original()
    assert got == {name: original[name] for name in got}


def test_mean_is_the_mean_of_models() -> None:
    world = World(3, torch.float32)
    got = world.values("mean", taken("mean"))
    soup = world.values("mean", taken("mean"), with_base=False)
    for name in SHAPES:
        models = [world.weights[each][name].double() for each in NAMES]
        assert torch.allclose(soup[name].double(), sum(models) / 3, atol=1e-7)
        both = (sum(models) + world.start[name].double()) / 4
        assert torch.allclose(got[name].double(), both, atol=1e-7)


def assert_nearest(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Check that float32 are those nearest to float64; at a tie, an error of these may decide."""
    half = (torch.nextafter(found, found + 1).double() - found.double()) / 2
    assert ((found.double() - wanted).abs() <= half * (1 + 2.0**-20)).all()
    assert (found == wanted.float()).double().mean() > 0.9


def test_ties_of_the_authors_trims_over_the_model() -> None:
    """Against their code's formula: github.com/prateeky2806/ties-merging, ties_minimal."""
    world = World(4, torch.float32)
    got = world.values("ties", taken("ties"), density=0.3, **{"lambda": 0.8})
    flat = torch.cat([world.start[name].flatten() for name in SHAPES]).double()
    tasks = torch.stack(
        [
            torch.cat([world.weights[each][name].flatten() for name in SHAPES]).double() - flat
            for each in NAMES
        ]
    )
    count = flat.numel() - int(flat.numel() * 0.3)
    least = tasks.abs().kthvalue(count, dim=1, keepdim=True).values
    tasks = tasks * (tasks.abs() >= least)
    sign = tasks.sum(dim=0).sign()
    sign[sign == 0] = 1
    chosen = tasks * torch.where(sign > 0, tasks > 0, tasks < 0)
    merged = chosen.sum(dim=0) / (chosen != 0).sum(dim=0).clamp(min=1)
    found = torch.cat([got[name].flatten() for name in SHAPES])
    assert_nearest(found, flat + 0.8 * merged)


@pytest.mark.parametrize("majority", ["total", "frequency"])
def test_ties_of_peft(majority: Any) -> None:
    from peft.utils.merge_utils import ties

    world = World(5, torch.float32)
    steps = taken("ties-peft")
    got = world.values("ties-peft", steps, density=0.5, majority_sign=majority)
    for name in SHAPES:
        start = world.start[name].double()
        tasks = [world.weights[each][name].double() - start for each in NAMES]
        weights = torch.tensor(list(steps.values()), dtype=torch.float64)
        assert_nearest(got[name], start + ties(tasks, weights, 0.5, majority))


def test_fisher_weighs_value_by_value() -> None:
    world = World(6, torch.float32)
    for name in NAMES[:2]:
        world.add(f"{name}-fisher", {k: t.float().abs() for k, t in world.weights[name].items()})
    recipe = Compose(
        base=ModuleName("base"),
        method="fisher",
        steps=tuple(
            Step(
                op="dense",
                module=ModuleName(name),
                parameters={"importance": f"{name}-fisher"},
            )
            for name in NAMES[:2]
        ),
    )
    assert recipe.modules() == ["base", "one", "two", "one-fisher", "two-fisher"]
    composition = plan("model", "1", recipe, world.modules)
    got = values(compose(composition, world.folder).tensors)
    for name in SHAPES:
        one, two = (world.weights[each][name].double() for each in NAMES[:2])
        wanted = (one.abs() * one + two.abs() * two) / (one.abs() + two.abs())
        assert torch.allclose(got[name].double(), wanted, atol=1e-6)
    world.modules["two-fisher"].tensors.pop("norm")
    with raises("M601", match="no importance for 'norm'"):
        plan("model", "1", recipe, world.modules)
    world.add("one-fisher", {**world.start, "norm": torch.ones(3)})
    with raises("M604", "M601"):
        plan("model", "1", recipe, world.modules)


@pytest.mark.parametrize("method", ["dare-linear", "della-linear"])
def test_random_dropping_preserves_the_mean(method: str) -> None:
    reducer = REDUCERS[method]
    delta = np.ones((400, 250))
    parameters = {"density": 0.3, "epsilon": 0.1}
    change = Contribution(delta=delta, weight=1.0, parameters=parameters, key=b"x")
    got = reducer.reduce(np.zeros_like(delta), [change], seed=1)
    assert abs(float((got != 0).mean()) - 0.3) < 0.01
    assert abs(float(got.mean()) - 1) < 0.05
    assert not np.array_equal(got, reducer.reduce(np.zeros_like(delta), [change], seed=2))


def test_the_stream_is_splitmix64() -> None:
    """Against the generator itself, in Python's integers."""
    import hashlib

    mask = (1 << 64) - 1
    state = int.from_bytes(hashlib.sha256(b"7:key").digest()[:8], "little")
    wanted = []
    for counter in range(1, 6):
        x = (state + counter * 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        wanted.append(((x ^ (x >> 31)) >> 11) * 2.0**-53)
    assert uniform(7, b"key", 0, (5,)).tolist() == wanted
    assert uniform(7, b"key", 3, (2, 1)).flatten().tolist() == wanted[3:]


MAGNITUDES = [0.0, 1.0, 1.5, 1.5 + 2e-16, 2.0, 2.0 - 1e-9, 3e-310, 1e300]
"""Some are one in float32, and the greatest is none there."""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(MAGNITUDES), min_size=1, max_size=60),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_selection_equals_sorting(
    numbers: list[float], width: int, lucky: bool, narrow: bool, data: st.DataObject
) -> None:
    array = np.array(numbers)
    cuts = range(width, len(numbers), width)

    def whole() -> list[Array]:
        return np.split(array, cuts)

    def rough(bound: float) -> Iterator[ApproximateMagnitudes]:
        place = 0
        for block in whole():
            with np.errstate(over="ignore"):
                values = block.astype(np.float32) if narrow else block
            apart = np.flatnonzero(values != block)
            exact = bool(bound > 1.2 or not apart.size)
            yield ApproximateMagnitudes(place, values.copy(), block.__getitem__, exact, apart)
            place += block.size

    k = data.draw(st.integers(1, len(numbers)))
    sample = array if lucky else np.full(7, 1e-5)
    kept = data.draw(st.sampled_from([0, 2, selection.KEPT_ELEMENTS]))
    with mock.patch.object(selection, "KEPT_ELEMENTS", kept):
        found = kth_largest(rough, whole, sample, k, len(numbers) + (not lucky))
    value = sorted(numbers, reverse=True)[k - 1]
    assert found[:3] == (value, sum(n > value for n in numbers), numbers.count(value))
    number = data.draw(st.integers(1, found.equal))
    drawn = draw(rough, found, number, 7)
    assert draw(rough, found._replace(places=None), number, 7).limit == drawn.limit
    places = np.flatnonzero(array == value)
    draws = draws_at(7, places)
    assert sum(one < drawn.limit for one in draws.tolist()) == number
    if drawn.dropped is not None:
        assert (
            drawn.dropped.places().tolist()
            == places[[one >= drawn.limit for one in draws.tolist()]].tolist()
        )


def test_filters_and_gradients() -> None:
    world = World(7, torch.float32)
    scale = (Filtered(value=(0.0, 1.0), filter="layers"), Filtered(value=0.5))
    got = world.values("sum", [("one", scale)])
    assert torch.equal(got["model.layers.0.w"], world.start["model.layers.0.w"])
    assert torch.equal(got["model.layers.1.w"], world.weights["one"]["model.layers.1.w"])
    with raises("M601", match="no value for 'norm'"):
        world.plan("sum", [("one", scale[:1])])


@pytest.mark.parametrize(
    ("method", "steps", "parameters", "message"),
    [
        ("ties-mergekit", ["one"], {"densty": 0.5}, "no parameter 'densty'; it has density"),
        ("ties-mergekit", ["one"], {"density": 1.5}, "must be 0 to 1"),
        ("ties-mergekit", ["one"], {"normalize": 1.0}, "must be true or false"),
        ("karcher", ["one"], {"max_iter": 1.5}, "must be an integer"),
        ("slerp", ["one"], {}, "needs the parameter 't'"),
        ("slerp", ["one", "two"], {"t": 0.5}, "takes 1 step, not 2"),
        ("model-stock", ["one"], {}, "takes 2 or more steps"),
        ("nuslerp", ["one"], {}, "takes two steps"),
        ("nuslerp", ["one", "two"], {"vectors": "row"}, "'tensor', 'rows' or 'columns'"),
        ("nearswap", ["one"], {"t": -0.1}, "must be at least 0"),
        ("ties-peft", ["one"], {"majority_sign": "x"}, "'total' or 'frequency'"),
        ("della", ["one"], {"density": 0.9}, "more than 0 and less than 1"),
    ],
)
def test_invalid_parameters_are_refused(
    method: str, steps: list[str], parameters: dict[str, Any], message: str
) -> None:
    with raises("M601", match=message):
        World().values(method, dict.fromkeys(steps, 1.0), **parameters)


@pytest.mark.parametrize(("method", "key"), [("ties", "density"), ("ram-plus", "epsilon")])
def test_what_is_measured_over_the_model_has_one_value(method: str, key: str) -> None:
    for value in ((0.1, 0.3), (Filtered(0.1, "norm"), Filtered(0.2))):
        with raises("M601", match="measures all tensors as one"):
            World().plan(method, taken(method), **{key: value})


def test_scales_of_unweighted_methods_and_unknown_methods_are_refused() -> None:
    with raises("M601", match="takes no weights"):
        World().plan("mean", {"one": 0.5})
    with raises("M620", match=r"unknown method 'tiez'; known are arcee-fusion.*ties"):
        World().plan("tiez", {"one": 1.0})


def test_a_third_party_method_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from modpkg.compose.reducers import reducer

    @reducer("halfway")
    def halfway(base: Array, changes: list[Contribution], *, share: float = 0.5) -> Array:
        """base + share · delta."""
        return base + share * changes[0].delta

    assert isinstance(halfway, Reducer)
    monkeypatch.setitem(REDUCERS, "halfway", halfway)
    world = World(8, torch.float32)
    got = world.values("halfway", {"one": 1.0}, share=1.0)
    assert torch.equal(got["norm"], world.weights["one"]["norm"])
