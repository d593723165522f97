"""Recipes of mergekit-moe (its YAML) in a manifest's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.interop.mergekit import Recipe

EXPERTS = "experts"
"""The key that tells such a recipe from others."""
_KEYS = ("base_model", EXPERTS, "gate_mode", "dtype", "experts_per_token", "architecture")
_MODES = ("hidden", "hidden_avg", "cheap_embed")
_ARCHITECTURES = ("mixtral", "qwen3", "qwen3_moe", None)
_EXPERT = {"positive_prompts": "prompts", "negative_prompts": "negative_prompts"}


class MixtureRecipe(Recipe):
    """A recipe of a mixture of experts."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        super().__init__(path, data, keys=(*_KEYS, "shared_experts"))
        if data.get("shared_experts"):
            raise self._refuse("'shared_experts' has no form here")
        if (mode := data.get("gate_mode", "hidden")) not in _MODES:
            raise self._refuse(f"its gate_mode is {mode!r}; known are {', '.join(_MODES)}")
        if (wanted := data.get("architecture")) not in _ARCHITECTURES:
            raise self._refuse(
                f"its architecture is {wanted!r}; a Llama or Mistral becomes a Mixtral here, and a "
                "Qwen its own"
            )
        self.summary = "Mixture of experts"
        self.notes += [
            "mixture: the base reads prompts in float64, where mergekit's does in bfloat16; and "
            "one at a time, without padding",
            "mixture: a sliding window of the base stays; mergekit takes it away",
        ]

    def _compose(self) -> dict[str, Any]:
        experts = self._data[EXPERTS]
        if "base_model" not in self._data or not isinstance(experts, list) or not experts:
            raise self._refuse("it needs a base_model, and experts in a list")
        base = self._model(self._data["base_model"])
        steps = [self._expert(item, base) for item in experts]
        parameters: dict[str, Any] = {
            "gates": self._data.get("gate_mode", "hidden"),
            "experts_per_token": self._data.get("experts_per_token", 2),
        }
        steps.append({"op": "router", "module": base, "parameters": parameters})
        return {"base": base, "steps": steps}

    def _expert(self, item: Any, base: str) -> dict[str, Any]:
        if not isinstance(item, Mapping) or "source_model" not in item:
            raise self._refuse("an expert is a table with source_model")
        parameters: dict[str, Any] = {}
        for key, value in item.items():
            if key in _EXPERT:
                if not isinstance(value, list) or not all(isinstance(p, str) for p in value):
                    raise self._refuse(f"{key} of an expert is no list of texts")
                if value:
                    parameters[_EXPERT[key]] = list(value)
            elif key != "source_model" and value is not None:
                raise self._refuse(f"{key!r} of an expert has no form here")
        module = self._model(item["source_model"])
        if module != base:
            parameters["others"] = "drop"
        return {"op": "expert", "module": module, "parameters": parameters}
