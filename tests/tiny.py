"""A tiny Llama and adapters for it, written without torch so that tests are quick."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

from modpkg.core.records import IndexLine
from modpkg.manifest.read import read_manifest
from modpkg.registry.base import find_base
from modpkg.registry.origins import find_origins
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import acts_on_base, build
from tests.conftest import safetensors_bytes
from tests.modules import write_module

HIDDEN, LAYERS, HEADS, INNER, VOCAB, RANK = 8, 2, 2, 16, 32, 2

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "dtype": "float32",
}

ADAPTER_CONFIG = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
}


APP = """\
[app]
name = "app"
[dependencies]
tiny = "*"
tiny-lora = "*"
[models.mine]
base = "tiny"
steps = [{ op = "lora", module = "tiny-lora" }]
"""
"""The manifest of an app of this base and an adapter."""


def floats(rng: random.Random, *shape: int) -> tuple[str, list[int], bytes]:
    count = 1
    for extent in shape:
        count *= extent
    raw = struct.pack(f"<{count}f", *(rng.gauss(0, 0.1) for _ in range(count)))
    return "F32", list(shape), raw


def base_weights(seed: int = 0, *, layers: int = LAYERS, hidden: int = HIDDEN) -> bytes:
    """Return model.safetensors of a Llama."""
    rng = random.Random(seed)
    tensors = {"model.embed_tokens.weight": floats(rng, VOCAB, hidden)}
    for layer in range(layers):
        path = f"model.layers.{layer}"
        for name in "qkvo":
            tensors[f"{path}.self_attn.{name}_proj.weight"] = floats(rng, hidden, hidden)
        tensors[f"{path}.mlp.gate_proj.weight"] = floats(rng, INNER, hidden)
        tensors[f"{path}.mlp.up_proj.weight"] = floats(rng, INNER, hidden)
        tensors[f"{path}.mlp.down_proj.weight"] = floats(rng, hidden, INNER)
        tensors[f"{path}.input_layernorm.weight"] = floats(rng, hidden)
        tensors[f"{path}.post_attention_layernorm.weight"] = floats(rng, hidden)
    tensors["model.norm.weight"] = floats(rng, hidden)
    return safetensors_bytes(tensors)


def adapter_weights(seed: int = 1, *, layers: int = LAYERS, hidden: int = HIDDEN) -> bytes:
    """Return adapter_model.safetensors of a LoRA on q_proj and v_proj."""
    rng = random.Random(seed)
    tensors = {}
    for layer in range(layers):
        for name in ("q_proj", "v_proj"):
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{path}.lora_A.weight"] = floats(rng, RANK, hidden)
            tensors[f"{path}.lora_B.weight"] = floats(rng, hidden, RANK)
    return safetensors_bytes(tensors)


def write_base(folder: Path, version: str = "1.0", seed: int = 0, **shape: int) -> Path:
    config = CONFIG | {"num_hidden_layers": shape.get("layers", LAYERS)}
    config |= {"hidden_size": shape.get("hidden", HIDDEN)}
    files = {
        "model.safetensors": base_weights(seed, **shape),
        "config.json": json.dumps(config).encode(),
    }
    return write_module(folder, "tiny", version, "base", files=files)


def write_adapter(
    folder: Path, version: str = "1.0", seed: int = 1, base: str = ">=1", **shape: int
) -> Path:
    files = {
        "adapter_model.safetensors": adapter_weights(seed, **shape),
        "adapter_config.json": json.dumps(ADAPTER_CONFIG).encode(),
    }
    return write_module(folder, "tiny-lora", version, "adapter", {"tiny": base}, files=files)


def write_model(folder: Path, version: str = "1.0", lora: str = ">=1", base: str = ">=1") -> Path:
    compose = (
        '[compose]\nbase = "tiny"\nsteps = [{ op = "lora", module = "tiny-lora" }]\n'
        '[task]\nkind = "text-generation"\n'
    )
    requires = {"tiny": base, "tiny-lora": lora}
    return write_module(folder, "talker", version, "model", requires, compose)


def publish(folder: Path, registry: Path) -> IndexLine:
    """Build any module against the registry's bases, and publish it."""
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    base, reader = None, Registry(str(registry))
    if acts_on_base(manifest):
        base = find_base(manifest, {d.name: reader for d in manifest.dependencies}, None)
    origins = find_origins(manifest, lambda name: reader)
    built = build(manifest, manifest.module, folder / "dist", base=base, origins=origins)
    return RegistryWriter(registry, registry.name).publish(
        Registry(str(folder / "dist")), built.line
    )


def publish_talker(registry: Path, projects: Path) -> None:
    """Publish tiny 1.0, tiny-lora 1.0 and 2.0, and talker 1.0 and 2.0 on them."""
    publish(write_base(projects / "tiny"), registry)
    publish(write_adapter(projects / "lora-1"), registry)
    publish(write_adapter(projects / "lora-2", "2.0", seed=2), registry)
    publish(write_model(projects / "talker-1", "1.0", "~=1.0"), registry)
    publish(write_model(projects / "talker-2", "2.0", "~=2.0"), registry)
