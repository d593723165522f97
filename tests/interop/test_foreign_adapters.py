"""Adapters of other savers than PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modpkg.adapters import bind_adapter
from modpkg.compose.executor import compose
from modpkg.core.tensors import types_of
from modpkg.interop.peft import import_peft
from modpkg.manifest.schema import Step
from tests.compose.helpers import of_folder, planned, values
from tests.raising import raises

PATHS = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
EMBEDDING = "model.embed_tokens"


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def mlx(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    settings = {"rank": 2, "scale": 3.5, "dropout": 0.0}
    given = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": settings, **config}
    (folder / "adapter_config.json").write_text(json.dumps(given))
    save_file(tensors, folder / "adapters.safetensors")
    return folder


def pairs(ranks: tuple[int, int] = (2, 2)) -> dict[str, torch.Tensor]:
    tensors = {}
    for path, rank in zip(PATHS, ranks, strict=True):
        tensors |= {f"{path}.lora_a": random(6, rank), f"{path}.lora_b": random(rank, 4)}
    return tensors


def composed(folder: Path, source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a base's tensors, and what an adapter makes of them."""
    base = {f"{path}.weight": random(4, 6) for path in PATHS} | {
        f"{EMBEDDING}.weight": random(9, 6),
        "lm_head.weight": random(9, 6) + 1,  # equal ones are taken for one tied tensor
    }
    (folder / "base").mkdir()
    save_file(base, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text('{"model_type": "llama"}')
    import_peft(source, folder / "out", "ad", "1.0", base="base", license="MIT")
    modules = of_folder(folder / "base", "base", "base"), of_folder(folder / "out", "ad", "adapter")
    plan = planned(*modules, steps=[Step(op="lora", module=modules[1].name)])
    return base, values(compose(plan, folder / "store", threads=1).tensors)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_tensors_of_8_bits_are_written_as_bfloat16(dtype: torch.dtype, tmp_path: Path) -> None:
    source = tmp_path / "narrow"
    source.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    (source / "adapter_config.json").write_text(json.dumps(settings))
    every = torch.arange(256).to(torch.uint8).view(dtype)
    finite = every[every.float().isfinite()].reshape(2, -1)
    name = "base_model.model.q_proj.lora_A.weight"
    save_file({name: finite}, source / "adapter_model.safetensors")
    warnings = import_peft(source, tmp_path / "out", "ad", "1.0", base="base", license="MIT")
    assert any("written as BF16" in warning for warning in warnings)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")[name]
    assert written.dtype == torch.bfloat16
    assert torch.equal(written.float(), finite.float())
    assert load_file(source / "adapter_model.safetensors")[name].dtype == dtype


@pytest.mark.parametrize("ranks", [(2, 2), (2, 3)])
def test_mlx_lora_is_converted(ranks: tuple[int, int], tmp_path: Path) -> None:
    tensors = pairs(ranks)
    tensors |= {f"{EMBEDDING}.lora_a": random(9, 2), f"{EMBEDDING}.lora_b": random(2, 6)}
    base, result = composed(tmp_path, mlx(tmp_path / "mlx", tensors))
    x = random(5, 6)
    for path in PATHS:
        # mlx_lm/tuner/lora.py: y = linear(x); z = (x @ lora_a) @ lora_b; y + scale * z
        wanted = x @ base[f"{path}.weight"].T
        wanted += 3.5 * (x @ tensors[f"{path}.lora_a"]) @ tensors[f"{path}.lora_b"]
        torch.testing.assert_close(x @ result[f"{path}.weight"].T, wanted, rtol=1e-4, atol=1e-4)
    # LoRAEmbedding: y = embedding(x); z = lora_a[x] @ lora_b; y + scale * z
    rows = tensors[f"{EMBEDDING}.lora_a"] @ tensors[f"{EMBEDDING}.lora_b"]
    wanted = base[f"{EMBEDDING}.weight"] + 3.5 * rows
    torch.testing.assert_close(result[f"{EMBEDDING}.weight"], wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(result["lm_head.weight"], base["lm_head.weight"])


def test_mlx_dora_is_converted(tmp_path: Path) -> None:
    tensors = pairs() | {f"{path}.m": random(4).abs() for path in PATHS}
    base, result = composed(tmp_path, mlx(tmp_path / "mlx", tensors, fine_tune_type="dora"))
    for path in PATHS:
        # mlx_lm/tuner/dora.py: adapted = w + scale * lora_b.T @ lora_a.T, and m over its norm
        a, b = tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"]
        adapted = base[f"{path}.weight"] + 3.5 * b.T @ a.T
        wanted = (tensors[f"{path}.m"] / adapted.norm(dim=1))[:, None] * adapted
        torch.testing.assert_close(result[f"{path}.weight"], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {"fine_tune_type": "full"}, "mlx-lm's form, and holds a model's own weights"),
        ({}, {"lora_parameters": {"rank": 2}}, "no lora_parameters with a scale"),
        ({}, {"lora_parameters": [3]}, "no lora_parameters with a scale"),
        ({f"{PATHS[0]}.m": random(4)}, {}, "are not lora_a, lora_b of one rank"),
        ({f"{PATHS[0]}.lora_a": random(6, 3)}, {}, "are not lora_a, lora_b of one rank"),
        ({f"{PATHS[0]}.lora_a": random(3, 2, 6)}, {}, r"only LoRA on matrices.*\[3, 2, 6\]"),
        ({"norm.weight": random(6)}, {}, "only LoRA on matrices.*'norm.weight'"),
    ],
    ids=str,
)
def test_mlx_adapters_that_cannot_be_converted(
    change: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = mlx(tmp_path / "mlx", pairs() | change, **config)
    with raises("M801", match=message):
        import_peft(source, tmp_path / "out", "ad", "1.0", base="base")


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("style.safetensors", "lora_te1_q_proj.lora_up.weight", "they tell no layer"),
        ("x.safetensors", "layers.0.q_proj.lora_up.weight", "neither alphas nor a configuration"),
        ("epoch_1/adapter_model.safetensors", "x", "a trainer's folder.* in epoch_1;"),
        ("checkpoint-9/adapter_model.safetensors", "x", "a trainer's folder.* in checkpoint-9;"),
        ("adapters.safetensors", "x", "no adapter_config.json"),
        ("adapter_model.safetensors", "base_model.model.q.lora_A.weight", "no adapter_config.json"),
    ],
)
def test_other_forms_are_told(file: str, name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "source" / file
    path.parent.mkdir(parents=True)
    save_file({name: random(2, 2)}, path)
    with raises("M801", match=message):
        import_peft(tmp_path / "source", tmp_path / "out", "ad", "1.0", base="base")


def test_torchtunes_pickles_are_told(tmp_path: Path) -> None:
    (tmp_path / "adapter_0.pt").write_bytes(b"PK")
    with raises("M801", match="torchtune's pickles"):
        import_peft(tmp_path, tmp_path / "out", "ad", "1.0", base="base")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("global_step10/mp_rank_00_model_states.pt", "a checkpoint of DeepSpeed"),
        ("pytorch_model_fsdp.bin", "a checkpoint of FSDP"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "a checkpoint of FSDP"),
        ("adapter_model.bin", "its weights are a pickle"),
    ],
)
def test_checkpoints_of_trainers_are_told(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"PK")
    (tmp_path / "adapter_config.json").write_text("{}")
    with raises("M801", match=message):
        import_peft(tmp_path, tmp_path / "out", "ad", "1.0", base="base")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("adapter_0.safetensors", "torchtune's own names"),
        ("value_head.safetensors", "the value head of a reward model"),
    ],
)
def test_other_files_of_trainers_are_told(file: str, message: str, tmp_path: Path) -> None:
    save_file({"layers.0.attn.q_proj.lora_a.weight": random(2, 2)}, tmp_path / file)
    with raises("M801", match=message):
        import_peft(tmp_path, tmp_path / "out", "ad", "1.0", base="base")


@pytest.mark.parametrize(("model", "told"), [("qwen2", True), ("llama", False)])
def test_rows_that_torchtune_reordered_are_told(model: str, told: bool, tmp_path: Path) -> None:
    source = tmp_path / "epoch_0"
    source.mkdir()
    path = f"base_model.model.{PATHS[0]}"
    tensors = {f"{path}.lora_A.weight": random(2, 6), f"{path}.lora_B.weight": random(4, 2)}
    save_file(tensors, source / "adapter_model.safetensors")
    (source / "adapter_model.pt").write_bytes(b"PK")
    (source / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    (source / "config.json").write_text(json.dumps({"model_type": model}))
    warnings = import_peft(source, tmp_path / "out", "ad", "1.0", base="base", license="MIT")
    assert any("torchtune wrote it with the rows" in warning for warning in warnings) == told


@pytest.mark.parametrize("config", [{}, {"lora_layers": 1, "rank": 2, "alpha": 16}], ids=str)
def test_mlx_without_a_known_scale_is_told(config: dict[str, Any], tmp_path: Path) -> None:
    source = mlx(tmp_path / "mlx", pairs())
    (source / "adapter_config.json").write_text(json.dumps(config))
    with raises("M801", match="mlx-lm's form.* no lora_parameters with a scale"):
        import_peft(source, tmp_path / "out", "ad", "1.0", base="base")


def test_a_converted_adapter_is_bound_whole(tmp_path: Path) -> None:
    import_peft(mlx(tmp_path / "mlx", pairs()), tmp_path / "out", "ad", "1.0", base="base")
    module = of_folder(tmp_path / "out", "ad", "adapter")
    assert load_file(tmp_path / "out" / "adapter_model.safetensors").keys() == module.tensors.keys()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(PATHS)
    base = {f"{path}.weight": random(4, 6) for path in PATHS}
    save_file(base, tmp_path / "base.safetensors")
    (tmp_path / "b").mkdir()
    save_file(base, tmp_path / "b" / "model.safetensors")
    table = of_folder(tmp_path / "b", "b", "base").tensors
    changes = bind_adapter("ad", types_of(module.tensors), config, table).changes
    assert [change.weight for change in changes] == [3.5, 3.5]
