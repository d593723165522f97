"""Copies of one model with other names: as transformers has it in memory, and as it had it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.architectures import small_model
from modpkg.community.diff.tensors import diff_views
from modpkg.community.modules.reference import view_of_folder
from modpkg.community.modules.view import ModuleView
from modpkg.community.patch.apply import apply_patch
from modpkg.community.patch.create import create, write_patch
from modpkg.core.progress import Progress
from modpkg.store.store import Store
from tests.community.changed import same_bits, tensors_of
from tests.compose.helpers import of_folder

pytestmark = pytest.mark.filterwarnings("ignore")


def disk_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def saved(name: str, folder: Path) -> Any:
    model = small_model(name)
    model.save_pretrained(folder)
    return model


def in_memory(model: Any, folder: Path, base: Path, changed: str | None = None) -> ModuleView:
    """Write a copy with the names in memory; one parameter may be changed."""
    folder.mkdir()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if changed is not None:
        state[changed] += 1.0
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text((base / "config.json").read_text())
    return view_of_folder(str(folder), Progress())


@pytest.mark.parametrize(
    ("name", "parameter", "touched"),
    [
        (
            "vit",
            "vit.layers.0.mlp.fc1.weight",
            {"vit.encoder.layer.0.intermediate.dense.weight"},
        ),
        ("gte", "new.layers.0.self_attn.k_proj.weight", None),  # part of one tensor on disk
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj", None),  # several
    ],
)
def test_names_in_memory_are_no_difference(
    name: str, parameter: str, touched: set[str] | None, tmp_path: Path
) -> None:
    model = saved(name, tmp_path / "base")
    if parameter not in model.state_dict():
        ends = parameter.split(".", 1)[1]
        parameter = next(key for key in model.state_dict() if key.endswith(ends))
    base = of_folder(tmp_path / "base", "base", "base")
    before = view_of_folder(str(tmp_path / "base"), Progress())
    same = in_memory(model, tmp_path / "same", tmp_path / "base")
    statuses = {tensor.status for tensor in diff_views(before, same, Progress()).tensors}
    assert statuses == {"same"}
    assert {t.status for t in diff_views(same, before, Progress()).tensors} == {"same"}

    copy = in_memory(model, tmp_path / "copy", tmp_path / "base", parameter)
    tensors = diff_views(before, copy, Progress()).tensors
    changed = {tensor.name for tensor in tensors if tensor.status != "same"}
    assert all(tensor.status in ("same", "changed") for tensor in tensors)
    assert changed == touched if touched else changed

    (tmp_path / "spool").mkdir()
    patch = create(base, copy, deltas=False, spool=tmp_path / "spool")
    assert patch.forms.keys() == changed
    assert not patch.record.removed
    write_patch(patch, tmp_path / "p", name="p", version="1.0", license="MIT")
    view = view_of_folder(str(tmp_path / "p"), Progress())
    made = tensors_of(apply_patch(base, view, Store(tmp_path / "store"), Progress()))
    folder = tmp_path / "made"
    folder.mkdir()
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((tmp_path / "base" / "config.json").read_text())
    loaded = type(model).from_pretrained(folder, dtype=torch.float32).state_dict()
    wanted = dict(model.state_dict())
    wanted[parameter] = wanted[parameter] + 1.0
    assert same_bits(loaded, wanted)


def test_gamma_and_beta_are_weight_and_bias(tmp_path: Path) -> None:
    saved("bert", tmp_path / "new")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): value
        for key, value in disk_of(tmp_path / "new").items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(4)[None]
    save_file(old, tmp_path / "old" / "model.safetensors")
    one, two = (view_of_folder(str(tmp_path / name), Progress()) for name in ("old", "new"))
    assert {tensor.status for tensor in diff_views(one, two, Progress()).tensors} == {"same"}
    assert {tensor.status for tensor in diff_views(two, one, Progress()).tensors} == {"same"}


def test_a_copy_of_a_tied_tensor_follows_it(tmp_path: Path) -> None:
    """The base has the output layer twice; the copy, with another embedding, has it once."""
    saved("gpt2", tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = disk_of(tmp_path / "base")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, file)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_text((tmp_path / "base" / "config.json").read_text())
    del tensors["lm_head.weight"]
    tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"] + 1.0
    save_file(tensors, tmp_path / "copy" / "model.safetensors")
    base = of_folder(tmp_path / "base", "base", "base")
    copy = view_of_folder(str(tmp_path / "copy"), Progress())
    (tmp_path / "spool").mkdir()
    patch = create(base, copy, deltas=False, spool=tmp_path / "spool")
    assert patch.forms.keys() == {"lm_head.weight", "transformer.wte.weight"}
    assert not patch.record.removed
