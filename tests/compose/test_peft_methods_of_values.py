"""Adapters whose values do not define the change: refused when they are composed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modpkg.compose.executor import compose
from tests.compose.oracle import applied, save_adapter, shake
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")
Edit = Callable[[dict[str, torch.Tensor]], None]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 4)
        self.out = nn.Linear(4, 6)


def saved(folder: Path, config: Any, *, weight: torch.Tensor | None, edit: Edit | None) -> None:
    """Save a base and an adapter for its layers, of which ``edit`` changes the tensors."""
    torch.manual_seed(3)
    model = Layer()
    if weight is not None:
        model.lin.weight.data = weight
    (folder / "base").mkdir()
    save_file(
        {n: t.clone() for n, t in model.state_dict().items()}, folder / "base" / "m.safetensors"
    )
    (folder / "base" / "config.json").write_text("{}")
    config.target_modules = {"lin", "out"} if config.target_modules is None else {"lin"}
    wrapped = peft.get_peft_model(model, config)
    shake(wrapped)
    save_adapter(wrapped, folder)
    if edit is not None:
        path = folder / "adapter" / "adapter_model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path)


def tie(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lin.vblora_logits_A"][0, 0, :] = 1.0


def redraw(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lin.tinylora_P"] += 1.0


def leave(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lin.supertuning_indices"][0] = 24


def forget(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.frod_V.lin"].zero_()


ALIKE = torch.eye(4, 6) * torch.tensor([[3.0], [2.0], [2.0], [1.0]])
CASES: dict[str, tuple[Any, torch.Tensor | None, Edit | None, str]] = {
    "vblora": (peft.VBLoRAConfig(r=2, num_vectors=5, vector_length=2), None, tie, "logits tie"),
    "tinylora": (peft.TinyLoraConfig(r=2, u=3), None, redraw, "which of its vectors"),
    "supertuning": (peft.SupertuningConfig(sparsity=0.8), None, leave, "out of range"),
    "frod": (peft.FrodConfig(target_modules=["lin"]), None, forget, "no inverse"),
    "kasa": (
        peft.LoraConfig(
            r=2, kasa_config=peft.KasaConfig(), init_lora_weights=False, target_modules=["lin"]
        ),
        ALIKE,
        None,
        "are equal",
    ),
    "osf": (peft.OSFConfig(effective_rank=2, target_modules=["lin"]), ALIKE, None, "are equal"),
    "psoft": (peft.PsoftConfig(r=3, target_modules=["lin"]), ALIKE, None, "are equal"),
}


@pytest.mark.parametrize("name", CASES)
def test_values_that_do_not_define_the_change_are_refused(name: str, tmp_path: Path) -> None:
    config, weight, edit, message = CASES[name]
    saved(tmp_path, config, weight=weight, edit=edit)
    with raises("M601", match=message):
        compose(applied(tmp_path), tmp_path / "store", threads=1)


def test_copies_of_shared_bases_have_to_be_equal(tmp_path: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.lin.randlora_A"] += 1.0

    saved(tmp_path, peft.RandLoraConfig(r=2, init_weights=False), weight=None, edit=edit)
    with raises("M208", match="not equal to 'base_model.randlora_A'"):
        applied(tmp_path)


def test_a_lora_without_kasas_tensor_is_refused(tmp_path: Path) -> None:
    saved(
        tmp_path,
        peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["lin"]),
        weight=None,
        edit=None,
    )
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "kasa_config": {"beta": 1e-4, "gamma": 1e-3}}))
    with raises("M606", match="kasa_config"):
        applied(tmp_path)
    path.write_text(json.dumps({**config, "use_dora": True, "velora_config": {"num_groups": 2}}))
    with raises("M606", match="not combined"):
        applied(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        peft.OSFConfig(effective_rank=2, target_modules=["lin"]),
        peft.PsoftConfig(r=2, target_modules=["lin"]),
    ],
    ids=["osf", "psoft"],
)
def test_a_base_without_singular_values_is_refused(config: Any, tmp_path: Path) -> None:
    saved(tmp_path, config, weight=None, edit=None)
    path = tmp_path / "base" / "m.safetensors"
    tensors = load_file(path)
    tensors["lin.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    with raises("M601", match="no singular values"):
        compose(applied(tmp_path), tmp_path / "store", threads=1)
