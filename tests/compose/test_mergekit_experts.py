"""The same mixture from mergekit 0.1.5 and from modpkg.

mergekit reads prompts in bfloat16. modpkg's rows are those of mergekit's own code with that one
dtype made float64, rounded once; all other tensors are equal bit for bit. ``make_experts.py`` made
the kept files. Prompts of several lengths are padded there, and ``hidden_avg`` averages over that
too: compared is one prompt at a time.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from modpkg.interop.mergekit import import_mergekit
from modpkg.manifest.read import read_manifest
from tests.compose.helpers import of_folder
from tests.compose.mergekit.make_experts import HERE, RECIPES, write_models
from tests.compose.mixtures import Parameters, mixed, opened, saved
from tests.raising import raises


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_mixture_equals_mergekits(tmp_path: Path, recipe: str) -> None:
    mode, prompts = RECIPES[recipe]
    write_models(tmp_path)
    a, b, c = (of_folder(tmp_path / name, name, "base") for name in "abc")
    by_expert: dict[str, Parameters] = {
        name: {"prompts": tuple(positive), "negative_prompts": tuple(negative), "others": "drop"}
        for name, (positive, negative) in prompts.items()
    }
    composition = mixed(a, [b, c], {"gates": mode}, prompts=by_expert)
    ours = opened(saved(composition, tmp_path)).state_dict()
    kept = load_file(HERE / "experts.safetensors")
    theirs = {
        key.removeprefix(f"{recipe}/float32/"): tensor
        for key, tensor in kept.items()
        if key.startswith(f"{recipe}/float32/")
    }
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        if ".gate." not in name:
            assert torch.equal(ours[name], tensor), name
            continue
        judge = kept[f"{recipe}/float64/{name}"]
        # two ways of summing norms in float32 are apart by its last digits
        torch.testing.assert_close(ours[name].double(), judge, rtol=1e-5, atol=1e-6)
        assert (ours[name] - judge).abs().max() <= (tensor - judge).abs().max() + 2e-7


MIXTURE = """
base_model: a
gate_mode: hidden
experts_per_token: 1
dtype: float32
experts:
  - {source_model: a, positive_prompts: ["the cat sat"]}
  - {source_model: org/b, positive_prompts: ["a mat"], negative_prompts: ["it", "on"]}
"""


def test_a_recipe_of_a_mixture_becomes_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(MIXTURE)
    notes = " ".join(import_mergekit(tmp_path / "r.yml", tmp_path / "out", "mix", "1.0"))
    assert "reads prompts in float64" in notes
    recipe = read_manifest(tmp_path / "out" / "modpkg.toml").compose
    assert recipe is not None
    assert [(s.op, s.module) for s in recipe.steps] == [
        ("expert", "a"), ("expert", "b"), ("router", "a"),
    ]  # fmt: skip
    assert recipe.steps[1].parameters == {
        "negative_prompts": ("it", "on"),
        "others": "drop",
        "prompts": ("a mat",),
    }
    assert recipe.steps[2].parameters == {"experts_per_token": 1.0, "gates": "hidden"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gate_mode: random", "gate_mode is 'random'"),
        ("architecture: deepseek", "architecture is 'deepseek'"),
        ("shared_experts: [{source_model: a}]", "'shared_experts' is not supported"),
        ("experts: []", "a list of experts"),
        ("experts: [{source_model: b, noise_scale: 0.1}]", "'noise_scale' of an expert"),
        ("experts: [{source_model: b, positive_prompts: x}]", "not a list of strings"),
        ("experts: [b]", "without source_model"),
        ("merge_method: ties", "experts and a merge_method"),
    ],
)
def test_unsupported_recipes_of_mixtures_are_refused(
    tmp_path: Path, change: str, message: str
) -> None:
    recipe = {**yaml.safe_load(MIXTURE), **yaml.safe_load(change)}
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe))
    with raises("M801", match=message):
        import_mergekit(tmp_path / "r.yml", tmp_path / "out", "mix", "1.0")
