"""The settings of an exported adapter name the modules that are in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from modpkg.interop.peft_names import names_in_memory

EXPERTS = "model.layers.0.mlp.experts"


def test_a_parameter_named_without_its_path_is_not_in_every_module() -> None:
    """PEFT itself writes ``gate_up_proj`` for the parameters of experts."""
    sites = {"model.layers.0.block_sparse_moe.gate": (8, 4), f"{EXPERTS}.base_layer": (8, 4)}
    sites |= {EXPERTS: (8, 4), "model.layers.0.self_attn.q_proj": (8, 8)}
    tensors: dict[str, Any] = {}
    for path, (inner, out) in sites.items():
        for role, shape in (("lora_A", [2, inner]), ("lora_B", [out, 2])):
            name = f"base_model.model.{path}.{role}.weight"
            tensors[name] = SimpleNamespace(dtype="F32", shape=shape, digest=name)
    config = {
        "peft_type": "LORA",
        "r": 2,
        "target_modules": sorted(sites),
        "target_parameters": ["gate_up_proj", "down_proj"],
    }
    module: Any = SimpleNamespace(name="lora", tensors=tensors)
    _, exported = names_in_memory(
        module, config, lambda name: name.replace("block_sparse_moe", "mlp")
    )
    assert exported["target_modules"] == [
        "model.layers.0.mlp.gate",
        "model.layers.0.self_attn.q_proj",
    ]
    assert exported["target_parameters"] == config["target_parameters"]
