"""A small base, LoRA adapters for it, and how they bind."""

from __future__ import annotations

from typing import Any

from modpkg.adapters import TensorChange, bind_adapter
from modpkg.core.records import TensorType

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
BASE = {
    "model.layers.0.q.weight": TensorType("F32", [4, 6]),
    "model.layers.1.q.weight": TensorType("F32", [4, 6]),
    "model.layers.10.q.weight": TensorType("F32", [4, 6]),
    "model.norm.weight": TensorType("F32", [4]),
}


def pair(path: str, rank: int = 2, rows: int = 4, columns: int = 6) -> dict[str, Any]:
    """Return the tensors of a LoRA for one module, as PEFT names them."""
    return {
        f"base_model.model.{path}.lora_A.weight": ("F32", (rank, columns)),
        f"base_model.model.{path}.lora_B.weight": ("F32", (rows, rank)),
    }


def bind(names: dict[str, Any], base: Any = BASE, **config: Any) -> tuple[TensorChange, ...]:
    """Return the changes of an adapter, a plain LoRA but for ``config``."""
    settings = {**PLAIN, **config}
    return bind_adapter("an-adapter", names, settings, base, base_name="a-base 1.0").changes


def transposed(change: TensorChange) -> bool:
    return bool(change.parameters.get("transposed"))
