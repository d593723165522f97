"""Merges of tied models with untied ones: the output layer of a tied one is its embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.tied_by_default import FORCED, TIED
from modpkg.manifest.schema import Compose, Step
from tests.compose.helpers import module, values
from tests.raising import raises

EMBEDDING, OUTPUT, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.w"
Models = dict[str, InstalledModule]


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """Return ``tied`` and ``untied``, and others: ``twice`` has its tied embedding twice."""
    return {
        name: model(tmp_path, name, seed, tied=tied, output=output)
        for seed, (name, tied, output) in enumerate(
            [("tied", True, ""), ("untied", False, "own"), ("other", False, "own"),
             ("twice", True, "copy"), ("third", True, "")]
        )
    }  # fmt: skip


def model(
    folder: Path, name: str, seed: int, *, tied: bool, output: str, **config: Any
) -> InstalledModule:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        key: torch.randn(shape, generator=generator)
        for key, shape in ((EMBEDDING, (7, 4)), (LAYER, (4, 4)), ("norm", (4,)), (OUTPUT, (7, 4)))
    }
    if output == "copy":
        tensors[OUTPUT] = tensors[EMBEDDING].clone()
    elif not output:
        del tensors[OUTPUT]
    config = {"tie_word_embeddings": tied, **config}
    return module(folder, name, "base", tensors, config=config)


def planned(models: Models, base: str, *others: str, **recipe: Any) -> Composition:
    steps = tuple(Step(op="dense", module=ModuleName(name), scale=0.5) for name in others)
    return plan("m", "1", Compose(base=ModuleName(base), steps=steps, **recipe), models)


def merged(folder: Path, composition: Composition) -> dict[str, torch.Tensor]:
    return values(compose(composition, folder).tensors)


def test_a_tied_fine_tune_of_an_untied_base(models: Models, tmp_path: Path) -> None:
    composition = planned(models, "untied", "tied", "other")
    got = merged(tmp_path, composition)
    base, one, two = (values(models[name].tensors) for name in ("untied", "tied", "other"))
    wanted = (
        base[OUTPUT] + 0.5 * (one[EMBEDDING] - base[OUTPUT]) + 0.5 * (two[OUTPUT] - base[OUTPUT])
    )
    assert torch.allclose(got[OUTPUT], wanted, atol=1e-6)
    assert composition.config["tie_word_embeddings"] is False


def test_an_untied_fine_tune_of_a_tied_base_has_to_untie_it(models: Models, tmp_path: Path) -> None:
    with raises("M601", match="tie_word_embeddings = false in the recipe"):
        planned(models, "tied", "untied")
    for base in ("tied", "twice"):
        composition = planned(models, base, "untied", "third", tie_word_embeddings=False)
        got = merged(tmp_path, composition)
        start, one, two = (values(models[name].tensors) for name in (base, "untied", "third"))
        own = start[EMBEDDING]
        for name, theirs in ((EMBEDDING, EMBEDDING), (OUTPUT, OUTPUT)):
            wanted = own + 0.5 * (one[theirs] - own) + 0.5 * (two[EMBEDDING] - own)
            assert torch.allclose(got[name], wanted, atol=1e-6)
        assert composition.config["tie_word_embeddings"] is False


def test_tied_models_stay_tied_and_stored_once(models: Models) -> None:
    for other in ("twice", "third"):
        composition = planned(models, "tied", other)
        assert OUTPUT not in composition.computed.keys() | composition.kept.keys()
        assert composition.config["tie_word_embeddings"] is True
    with raises("M601", match="no fine-tune has an output layer of its own"):
        planned(models, "tied", "third", tie_word_embeddings=False)


def test_what_is_not_known_to_be_tied_is_refused(models: Models, tmp_path: Path) -> None:
    kind = sorted(FORCED & TIED)[0]
    models["always"] = model(tmp_path, "always", 9, tied=True, output="", model_type=kind)
    with raises("M601", match="no fine-tune has an output layer of its own"):
        planned(models, "always", "untied", tie_word_embeddings=False)
    tensors = {**values(models["tied"].tensors), "positions.weight": torch.ones(7, 4)}
    config = {"tie_word_embeddings": True}
    models["two"] = module(tmp_path, "two", "base", tensors, config=config)
    own = {**values(models["untied"].tensors), "positions.weight": torch.zeros(7, 4)}
    models["base"] = module(tmp_path, "base", "base", own, config={"tie_word_embeddings": False})
    with raises("M601", match="base has 'lm_head.weight' and two does not"):
        planned(models, "base", "two")
