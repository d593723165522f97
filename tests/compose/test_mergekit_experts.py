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
from safetensors.torch import load_file

from tests.compose.helpers import of_folder
from tests.compose.mergekit.make_experts import HERE, RECIPES, write_models
from tests.compose.mixtures import Parameters, mixed, opened, saved


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_mixture_is_mergekits(tmp_path: Path, recipe: str) -> None:
    mode, prompts = RECIPES[recipe]
    write_models(tmp_path)
    a, b, c = (of_folder(tmp_path / name, name, "base") for name in "abc")
    said: dict[str, Parameters] = {
        name: {"prompts": tuple(positive), "negative_prompts": tuple(negative), "others": "drop"}
        for name, (positive, negative) in prompts.items()
    }
    composition = mixed(a, [b, c], {"gates": mode}, prompts=said)
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
