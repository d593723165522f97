"""Mixtures of composed modules, and mixtures within compositions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import structs

from modpkg.compose.executor import compose
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose
from tests.compose.helpers import adapter
from tests.compose.mixtures import UNIFORM, Parameters, dense, expert, step
from tests.compose.test_nested import nested, step_by_step


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, InstalledModule]:
    """A base, an expert with its row of the router, and a LoRA of feed-forward blocks."""
    base = dense(tmp_path)
    generator = torch.Generator().manual_seed(4)
    pairs = {
        f"model.layers.{layer}.mlp.up_proj": (
            torch.randn(2, 16, generator=generator),
            torch.randn(24, 2, generator=generator),
        )
        for layer in range(3)
    }
    one = expert(tmp_path, base, "one", 1)
    two, three = (expert(tmp_path, base, name, 2, gate=3) for name in ("two", "three"))
    lora = adapter(tmp_path, "lora", pairs)
    return {each.name: each for each in (base, one, two, three, lora)}


def mixture(on: str, *experts: str, gates: Parameters = UNIFORM, **prompts: str) -> Compose:
    steps = [
        step("expert", name, {"prompts": prompts[name]} if name in prompts else None)
        for name in experts
    ]
    return Compose(base=ModuleName(on), steps=(*steps, step("router", on, gates)))


M1 = Compose(base=ModuleName("base"), steps=(step("lora", "lora"),))


@pytest.mark.filterwarnings("ignore")
def test_a_composed_module_is_an_expert(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    recipes = {"m1": M1, "mix": mixture("base", "m1", "one")}
    composed = compose(nested(modules, recipes, tmp_path), tmp_path / "store")
    assert composed.config["num_local_experts"] == 2
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


@pytest.mark.filterwarnings("ignore")
def test_prompts_are_read_by_a_composed_base(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    prompts = {"m1": "the cat sat", "one": "a mat"}
    recipes = {"m1": M1, "mix": mixture("m1", "m1", "one", gates={"gates": "hidden"}, **prompts)}
    composed = compose(nested(modules, recipes, tmp_path), tmp_path / "store")
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


@pytest.mark.filterwarnings("ignore")
def test_a_mixture_within_a_composition(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    recipes = {
        "mix": mixture("base", "two", "three", gates={"gates": "vectors"}),
        "half": Compose(base=ModuleName("mix"), method="passthrough", parameters={"scale": 0.5}),
    }
    composition = nested(modules, recipes, tmp_path)
    composed = compose(composition, tmp_path / "store")
    mix = compose(nested(modules, {"mix": recipes["mix"]}, tmp_path), tmp_path / "store")
    like = structs.replace(modules["base"], name="mix", tensors=mix.tensors)
    assert composed.tensors.keys() == mix.tensors.keys() == like.tensors.keys()
    assert composed.result == step_by_step(modules, recipes, tmp_path).result
