"""What parameters in memory are made from: judged by the values that transformers saves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.architectures import header_of, small_model
from modpkg.core.records import MemoryTensor
from modpkg.runtime.memory_layout import MemoryLayout, layout_of
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")


def layout(folder: Path) -> MemoryLayout:
    config = json.loads((folder / "config.json").read_text())
    found = layout_of("base", config, header_of(folder))
    assert found is not None
    return found


def values(parameter: MemoryTensor, disk: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return a parameter put together from its pieces."""
    flat = [disk[p.tensor].flatten()[p.start : p.stop] for p in parameter.pieces]
    shape = list(parameter.shape)
    if parameter.transposed:
        shape[-2:] = reversed(shape[-2:])
    found = torch.cat(flat).reshape(shape)
    return found.transpose(-1, -2) if parameter.transposed else found


@pytest.mark.parametrize(
    ("name", "changed", "joined"),
    [
        ("llama", False, False),
        ("gemma3", True, False),
        ("vit", True, False),
        ("mixtral", True, True),  # experts made of tensors for each expert and part
        ("gte", True, True),  # one tensor on disk split into several
        ("olmo_hybrid", True, True),  # several tensors joined into one
        ("step3p7", True, True),  # joined within each expert
    ],
)
def test_parameters_are_their_pieces(
    name: str, changed: bool, joined: bool, tmp_path: Path
) -> None:
    model = small_model(name)
    model.save_pretrained(tmp_path)
    disk = {k: v for file in tmp_path.glob("*.safetensors") for k, v in load_file(file).items()}
    found, state = layout(tmp_path), model.state_dict()
    assert found.shapes == {key: tuple(value.shape) for key, value in state.items()}
    described = {key: each for key, each in found.tensors.items() if each.pieces}
    for key, parameter in described.items():
        assert torch.equal(values(parameter, disk), state[key]), key
    assert bool(found.changed(header_of(tmp_path))) == changed
    parts = [p for p in described.values() if len(p.pieces) > 1 or p.pieces[0].stop is not None]
    assert bool(parts) == joined
    # what has no description is rearranged in a way that pieces cannot express
    rearranged = found.tensors.keys() - described.keys()
    assert all(".self_attn." in key for key in rearranged) if name == "step3p7" else not rearranged


def test_experts_that_are_stored_transposed(tmp_path: Path) -> None:
    """Older files of qwen3_vl_moe have (experts, in, out), which transformers turns by shape."""
    model = small_model("qwen3_vl_moe")
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    disk = load_file(file)
    key = "model.language_model.layers.0.mlp.experts.down_proj"
    disk[key] = disk[key].transpose(1, 2).contiguous()
    save_file(disk, file, metadata={"format": "pt"})
    parameter = layout(tmp_path).tensors[key]
    assert parameter.transposed
    assert torch.equal(values(parameter, disk), model.state_dict()[key])
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(loaded.state_dict()[key], model.state_dict()[key])


@pytest.mark.parametrize(
    ("disk", "memory"),
    [
        (
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ),
        ("model.language_model.layers.0.mlp.up_proj.weight",) * 2,
        ("language_model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_old_and_new_names(disk: str, memory: str, tmp_path: Path) -> None:
    small_model("gemma3").save_pretrained(tmp_path)
    renamed = layout(tmp_path).rename(disk)
    assert renamed == memory


def config_of(folder: Path, **changes: Any) -> dict[str, Any]:
    small_model("llama").save_pretrained(folder)
    return {**json.loads((folder / "config.json").read_text()), **changes}


def test_a_config_of_a_billion_layers_is_refused(tmp_path: Path) -> None:
    with raises("M704", match="num_hidden_layers"):
        layout_of("base", config_of(tmp_path, num_hidden_layers=10**9), {})


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with raises("M702"):
        layout_of("base", config_of(tmp_path, architectures=["NobodysModel"]), {})
