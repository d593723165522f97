"""Models of text and images, of which one tower is merged or has its layers taken from several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs

from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Layers, Step
from tests.compose.helpers import module, values
from tests.raising import raises

TEXT, IMAGE = "language_model.model.layers", "vision_tower.encoder.layers"
PART = {"within": "language_model."}


def tensors(seed: int, texts: int, images: int) -> dict[str, torch.Tensor]:
    """Return a model's tensors, named as those of LLaVA."""
    names = [f"{TEXT}.{k}.w" for k in range(texts)] + [f"{IMAGE}.{k}.w" for k in range(images)]
    names += ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"]
    names += ["multi_modal_projector.linear_1.weight"]
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn((3, 4), generator=generator) for name in names}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, InstalledModule]:
    """Two models with two towers each, and one that is only the text part."""
    text = {"model_type": "llama", "num_hidden_layers": 3, "layer_types": ["x", "y", "z"]}
    config = {"model_type": "llava", "text_config": text, "vision_config": {"num_hidden_layers": 3}}
    found = {
        name: module(tmp_path, name, "base", tensors(seed, 3, 3), config=config)
        for seed, name in enumerate("ab")
    }
    plain = {
        name.removeprefix("language_model."): tensor
        for name, tensor in tensors(7, 3, 0).items()
        if name.startswith("language_model.")
    }
    found["text"] = module(tmp_path, "text", "base", plain, config=text)
    return found


def planned(models: dict[str, InstalledModule], **recipe: Any) -> Composition:
    return plan("m", "1", Compose(base=ModuleName("a"), **recipe), models)


def merged(name: str, **more: Any) -> Step:
    return Step(op="dense", module=ModuleName(name), **more)


@pytest.mark.parametrize("other", ["b", "text"])
def test_one_tower_is_merged(
    other: str, models: dict[str, InstalledModule], tmp_path: Path
) -> None:
    composition = planned(models, method="mean", steps=(merged(other, parameters=PART),))
    base, own = (values(models[name].tensors) for name in ("a", other))
    got = values(compose(composition, tmp_path).tensors)
    assert got.keys() == base.keys()
    for name, tensor in base.items():
        if name.startswith("language_model."):
            theirs = own[name if other == "b" else name.removeprefix("language_model.")]
            assert torch.allclose(got[name], (tensor + theirs) / 2, atol=1e-6)
        else:
            assert torch.equal(got[name], tensor)


def test_a_part_may_have_several_prefixes(models: dict[str, InstalledModule]) -> None:
    """As in a model whose language model has no prefix of its own: ``model.`` and ``lm_head.``."""
    prefixes = ("language_model.lm_head.", f"{IMAGE}.1.")
    composition = planned(models, steps=(merged("b", parameters={"within": prefixes}),))
    assert composition.computed.keys() == {"language_model.lm_head.weight", f"{IMAGE}.1.w"}
    with raises("M601", match="text does not"):
        planned(models, steps=(merged("text", parameters={"within": prefixes}),))


def test_parts_that_do_not_fit_are_refused(models: dict[str, InstalledModule]) -> None:
    for prefix, message in (
        ("language_model", "ends with a dot"),
        (1.0, "must be a string"),
        ("audio.", "no tensor of a begins with it"),
        ("vision_tower.", "and a does not"),
    ):
        with raises("M601", match=message):
            planned(models, steps=(merged("text", parameters={"within": prefix}),))
    with raises("M601", match="does not"):
        planned(models, steps=(merged("text"),))


def test_layers_of_the_text_tower_are_taken_and_merged(
    models: dict[str, InstalledModule], tmp_path: Path
) -> None:
    """Towers have as many layers each; the other tower, and what is around it, is the base's."""
    runs = (
        Layers(module=ModuleName("a"), range=(0, 2)),
        Layers(
            module=ModuleName("b"),
            range=(1, 3),
            steps=(merged("a", scale=0.5),),
            tensors=("language_model.lm_head.weight", f"{IMAGE}.2."),
        ),
    )
    composition = planned(models, layers=runs)
    got = values(compose(composition, tmp_path).tensors)
    a, b = (values(models[name].tensors) for name in "ab")
    assert torch.equal(got[f"{TEXT}.1.w"], a[f"{TEXT}.1.w"])
    assert torch.allclose(got[f"{TEXT}.3.w"], (a[f"{TEXT}.2.w"] + b[f"{TEXT}.2.w"]) / 2)
    assert torch.equal(got[f"{IMAGE}.1.w"], a[f"{IMAGE}.1.w"])
    assert torch.allclose(got[f"{IMAGE}.2.w"], (a[f"{IMAGE}.2.w"] + b[f"{IMAGE}.2.w"]) / 2)
    assert len(got) == len(a) + 1
    assert composition.config["text_config"]["num_hidden_layers"] == 4
    assert composition.config["text_config"]["layer_types"] == ["x", "y", "y", "z"]
    assert composition.config["vision_config"] == {"num_hidden_layers": 3}


def test_towers_are_merged_by_methods_of_their_own(
    models: dict[str, InstalledModule], tmp_path: Path
) -> None:
    """Runs without a range: only tensors, in layers too, and layers stay where they are."""
    image = Layers(
        module=ModuleName("a"),
        tensors=("vision_tower.",),
        steps=(merged("b", scale=(0.0, 1.0)),),
        method="sum",
    )
    text = Layers(module=ModuleName("a"), tensors=("language_model.",), steps=(merged("b"),))
    composition = planned(models, layers=(image, text), method="mean")
    got = values(compose(composition, tmp_path).tensors)
    a, b = (values(models[name].tensors) for name in "ab")
    assert got.keys() == a.keys()
    for k, share in enumerate((0.0, 0.5, 1.0)):
        own = a[f"{IMAGE}.{k}.w"]
        assert torch.allclose(got[f"{IMAGE}.{k}.w"], own + share * (b[f"{IMAGE}.{k}.w"] - own))
        both = a[f"{TEXT}.{k}.w"] + b[f"{TEXT}.{k}.w"]
        assert torch.allclose(got[f"{TEXT}.{k}.w"], both / 2, atol=1e-6)
    projector = "multi_modal_projector.linear_1.weight"
    assert torch.equal(got[projector], a[projector])
    assert composition.config["text_config"]["num_hidden_layers"] == 3


def test_a_tower_of_another_shape_is_refused(
    models: dict[str, InstalledModule], tmp_path: Path
) -> None:
    more = {**values(models["b"].tensors), f"{IMAGE}.0.bias": torch.ones(3)}
    models["b"] = module(tmp_path, "c", "base", more, config={})
    run = Layers(module=ModuleName("a"), tensors=("vision_tower.",), steps=(merged("b"),))
    with raises("M601", match="layers.0.bias' and a does not"):
        planned(models, layers=(run,))
    other = structs.replace(run, steps=(merged("b", range=(0, 1)),))
    with raises("M601", match="step 1 has 1 layers, not 0"):
        planned(models, layers=(other,))
    layers = Layers(module=ModuleName("a"), range=(0, 3))
    inside = Layers(module=ModuleName("a"), tensors=(f"{TEXT}.0.",))
    with raises("M601", match="outside of its layers"):
        planned(models, layers=(layers, inside))


def test_stacks_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    names = ["encoder.block.0.w", "decoder.block.0.w"]
    both = module(
        tmp_path, "a", "base", {n: torch.ones(2) for n in names}, config={"num_layers": 1}
    )
    runs = (Layers(module=ModuleName("a"), range=(0, 1)),)
    with raises("M601", match="'decoder.block', 'encoder.block'"):
        planned({"a": both}, layers=runs)
