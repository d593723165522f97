"""What a module that acts on a base expects of it, from ``import`` to ``build``."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.errors import ComposeError, ModpkgError
from modpkg.core.records import Expects
from modpkg.core.tree import BlobTree
from modpkg.interop.peft import import_peft
from modpkg.manifest.read import read_manifest
from modpkg.registry.base import find_base
from modpkg.registry.reader import Registry
from modpkg.release.build import build
from tests.conftest import safetensors_bytes
from tests.modules import write_module
from tests.raising import raises
from tests.tiny import HIDDEN, VOCAB, floats, publish, write_base

RNG = random.Random(1)
P = "base_model.model.model"
Q = f"{P}.layers.0.self_attn.q_proj"
Tensors = dict[str, tuple[str, list[int], bytes]]


def touched(folder: Path, registry: Path) -> set[str]:
    """Build a project against the registry's tiny base, and return what it expects."""
    manifest = read_manifest(folder / "modpkg.toml")
    reader = Registry(str(registry))
    base = find_base(manifest, {d.name: reader for d in manifest.dependencies}, None)
    assert manifest.module is not None
    built = build(manifest, manifest.module, folder / "dist", base=base)
    digest = parse_digest(built.record.expects["tiny"])
    data = BlobTree(folder / "dist").path(digest).read_bytes()
    return set(msgspec.json.decode(data, type=Expects).tensors)


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    publish(write_base(tmp_path / "tiny"), tmp_path / "registry")
    return tmp_path / "registry"


def imported(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    source = folder / "peft"
    source.mkdir()
    (source / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    (source / "adapter_config.json").write_text(json.dumps(config))
    import_peft(source, folder / "mine", "mine", "1.0", base="tiny>=1", license="MIT")
    return folder / "mine"


ADAPTERS: dict[str, tuple[dict[str, Any], Tensors, set[str]]] = {
    "lora with tokens": (
        {"peft_type": "LORA", "r": 2, "trainable_token_indices": [3]},
        {
            f"{Q}.lora_A.weight": floats(RNG, 2, HIDDEN),
            f"{Q}.lora_B.weight": floats(RNG, HIDDEN, 2),
            f"{P}.embed_tokens.token_adapter.trainable_tokens_delta": floats(RNG, 1, HIDDEN),
        },
        {"model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"},
    ),
    "ia3": (
        {"peft_type": "IA3", "feedforward_modules": []},
        {f"{Q}.ia3_l": floats(RNG, HIDDEN, 1)},
        {"model.layers.0.self_attn.q_proj.weight"},
    ),
    "ln tuning": (
        {"peft_type": "LN_TUNING"},
        {f"{P}.norm.ln_tuning_layers.weight": floats(RNG, HIDDEN)},
        {"model.norm.weight"},
    ),
    "classifier": (
        {"peft_type": "LORA", "r": 2, "modules_to_save": ["score"], "task_type": "SEQ_CLS"},
        {
            f"{Q}.lora_A.weight": floats(RNG, 2, HIDDEN),
            f"{Q}.lora_B.weight": floats(RNG, HIDDEN, 2),
            "base_model.model.score.weight": floats(RNG, 3, HIDDEN),
        },
        {"model.layers.0.self_attn.q_proj.weight"},
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_expects_what_it_touches(name: str, tmp_path: Path, registry: Path) -> None:
    config, tensors, wanted = ADAPTERS[name]
    assert touched(imported(tmp_path, config, tensors), registry) == wanted


@pytest.mark.parametrize(
    ("config", "tensors", "error"),
    [
        ({"peft_type": "PREFIX_TUNING"}, {"prompt_embeddings": floats(RNG, 2)}, ComposeError),
        ({"peft_type": "IA3"}, {f"{Q}.ia3_l": floats(RNG, 3, 1)}, ModpkgError),
    ],
    ids=str,
)
def test_a_module_that_cannot_be_composed_is_not_built(
    config: dict[str, Any],
    tensors: Tensors,
    error: type[ModpkgError],
    tmp_path: Path,
    registry: Path,
) -> None:
    with pytest.raises(error):
        touched(imported(tmp_path, config, tensors), registry)


def patch(folder: Path, name: str) -> Path:
    tensors: Tensors = {
        f"{name}.indices": ("I64", [1], struct.pack("<q", VOCAB)),
        f"{name}.values": floats(RNG, 1),
        "model.norm.weight": floats(RNG, HIDDEN),
    }
    files = {"model.safetensors": safetensors_bytes(tensors)}
    return write_module(
        folder / "patch", "patch", kind="patch", requires={"tiny": "*"}, files=files
    )


def test_a_patch_expects_the_tensors_of_its_values(tmp_path: Path, registry: Path) -> None:
    wanted = {"model.embed_tokens.weight", "model.norm.weight"}
    assert touched(patch(tmp_path, "model.embed_tokens.weight"), registry) == wanted


def test_a_patch_of_what_the_base_lacks_is_refused(tmp_path: Path, registry: Path) -> None:
    with raises("M206", match="'other'"):
        touched(patch(tmp_path, "other"), registry)


@pytest.mark.parametrize(
    ("codes", "form"),
    [
        ({"weight": "F8_E4M3", "weight_scale_inv": "F32"}, "FP8"),
        ({"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"}, "GPTQ"),
        ({"weight": "F8_E5M2"}, "F8_E5M2"),
    ],
)
def test_a_quantised_base_is_the_reason_why_nothing_is_built_on_it(
    codes: dict[str, str], form: str, tmp_path: Path
) -> None:
    registry, layer = tmp_path / "registry", "model.layers.0.self_attn.q_proj"
    folder = write_base(tmp_path / "tiny")
    (folder / "config.json").unlink()
    widths = {"F32": 4, "I32": 4, "F16": 2}
    tensors: Tensors = {
        f"{layer}.{name}": (dtype, [HIDDEN, HIDDEN], bytes(HIDDEN**2 * widths.get(dtype, 1)))
        for name, dtype in codes.items()
    }
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    publish(folder, registry)
    lora = {
        f"{Q}.lora_A.weight": floats(RNG, 2, HIDDEN),
        f"{Q}.lora_B.weight": floats(RNG, HIDDEN, 2),
    }
    with raises("M215", match=form):
        touched(imported(tmp_path, {"peft_type": "LORA", "r": 2}, lora), registry)


def test_what_zero_3_left_empty_is_told_for_that(tmp_path: Path, registry: Path) -> None:
    lora = {
        f"{Q}.lora_A.weight": ("F32", [0], b""),
        f"{Q}.lora_B.weight": floats(RNG, HIDDEN, 2),
    }
    with raises("M220", match=r"shape \[0\] and no values: it was saved under ZeRO-3"):
        touched(imported(tmp_path, {"peft_type": "LORA", "r": 2}, lora), registry)


def test_a_base_that_is_quantised_when_it_is_loaded_is_told_at_build(tmp_path: Path) -> None:
    registry, folder = tmp_path / "registry", write_base(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "eetq", "weights": "int8"}
    (folder / "config.json").write_text(json.dumps(config))
    publish(folder, registry)
    lora = {
        f"{Q}.lora_A.weight": floats(RNG, 2, HIDDEN),
        f"{Q}.lora_B.weight": floats(RNG, HIDDEN, 2),
    }
    with raises("M215", match=r"\(eetq\), as quantization_config .* take quantization_config out"):
        touched(imported(tmp_path, {"peft_type": "LORA", "r": 2}, lora), registry)


def test_a_base_of_integers_is_told_at_build(tmp_path: Path) -> None:
    registry, weight = tmp_path / "registry", "model.layers.0.self_attn.q_proj.weight"
    folder = write_base(tmp_path / "tiny")
    (folder / "config.json").unlink()
    tensors: Tensors = {weight: ("I32", [HIDDEN, HIDDEN], bytes(HIDDEN**2 * 4))}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    publish(folder, registry)
    lora = {
        f"{Q}.lora_A.weight": floats(RNG, 2, HIDDEN),
        f"{Q}.lora_B.weight": floats(RNG, HIDDEN, 2),
    }
    with raises("M208", match="its dtype is I32"):
        touched(imported(tmp_path, {"peft_type": "LORA", "r": 2}, lora), registry)
