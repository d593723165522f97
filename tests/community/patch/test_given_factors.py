"""Factors of a LoRA that was merged are handed over: exact, and without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

from modpkg.community.modules.reference import view_of_folder
from modpkg.community.modules.view import ModuleView
from modpkg.community.patch.create import create, write_patch
from modpkg.community.patch.given_factors import given_factors
from modpkg.core.installed import InstalledModule
from modpkg.core.progress import Progress
from tests.community.changed import applied, base_of, copy_of, same_bits, tensors_of
from tests.raising import raises

QUERY, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
SIZE, RANK = 48, 3


def world(folder: Path, **config: Any) -> tuple[InstalledModule, ModuleView, ModuleView]:
    """Return a base, a copy with a LoRA merged into it, and the LoRA."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    base = {QUERY: drawn(SIZE, SIZE).bfloat16(), NORM: drawn(SIZE).bfloat16()}
    a, b = drawn(RANK, SIZE) / 7, drawn(SIZE, RANK) / 7
    merged = (base[QUERY].double() + 0.75 * b.double() @ a.double()).bfloat16()
    adapter = folder / "lora"
    adapter.mkdir()
    path = f"base_model.model.{QUERY.removesuffix('.weight')}"
    tensors = {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
    save_file(tensors, adapter / "adapter_model.safetensors")
    own = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2.25, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps({**own, **config}))
    view = view_of_folder(str(adapter), Progress())
    copy = copy_of(folder / "copy", {**base, QUERY: merged})
    return base_of(folder, base), copy, view


def test_the_copy_is_restored_without_a_search(tmp_path: Path) -> None:
    base, copy, lora = world(tmp_path)
    factors = given_factors(base, lora)
    assert factors.keys() == {QUERY}
    search = "modpkg.community.patch.tensor_encodings.find_low_rank"
    with mock.patch(search, side_effect=AssertionError):
        patch = create(base, copy, deltas=False, factors=factors)
    form = patch.forms[QUERY]
    assert (form.name, form.rank, form.places) == ("low rank", RANK, 0)
    write_patch(patch, tmp_path / "p", name="p", version="1.0", license="MIT")
    written = view_of_folder(str(tmp_path / "p"), Progress())
    assert same_bits(applied(tmp_path, base, written), tensors_of(copy))


def test_factors_of_another_lora_cost_size_and_never_exactness(tmp_path: Path) -> None:
    base, copy, lora = world(tmp_path)
    a, b = given_factors(base, lora)[QUERY]
    patch = create(base, copy, deltas=False, factors={QUERY: (a, -b)})
    assert patch.forms[QUERY].name == "whole"


def test_what_is_no_plain_lora_is_refused(tmp_path: Path) -> None:
    base, copy, lora = world(tmp_path)
    with raises("M238", match=r"has no adapter_config\.json"):
        given_factors(base, copy)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "IA3"}))
    with raises("M238", match="another method"):
        given_factors(base, lora)
