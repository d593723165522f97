"""Recipes of mergekit-moe (YAML): mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.compose.operators.router import FROM_PROMPTS
from modpkg.interop.mergekit_recipe import Recipe

EXPERTS = "experts"
"""The key that only recipes of mergekit-moe have."""
_KEYS = ("base_model", EXPERTS, "gate_mode", "dtype", "experts_per_token", "architecture")
_ARCHITECTURES = ("mixtral", "qwen3 moe")
"""Names of mergekit's architectures, in small letters; it takes the beginning of one, too."""
_NOISE = {"noise_scale": 0, "residual_scale": 1}
"""Keys of an expert, and the value with which they change nothing."""
PROMPTS = {"positive_prompts": "prompts", "negative_prompts": "negative_prompts"}
"""Keys of an expert, and the parameters of its step."""


class MixtureRecipe(Recipe):
    """A recipe for ``mergekit-moe``."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        super().__init__(path, data, keys=(*_KEYS, "shared_experts"))
        if "merge_method" in data:
            raise self._refuse("it has experts and a merge_method; only one of them can be meant")
        if data.get("shared_experts"):
            raise self._refuse("'shared_experts' is not supported")
        mode = data.get("gate_mode", "hidden")
        if not isinstance(mode, str) or mode not in FROM_PROMPTS:
            raise self._refuse(f"its gate_mode is {mode!r}; known are {', '.join(FROM_PROMPTS)}")
        wanted = data.get("architecture") or "mixtral"
        known = isinstance(wanted, str) and wanted.lower().replace("_", " ")
        if not known or not any(each.startswith(known) for each in _ARCHITECTURES):
            raise self._refuse(
                f"its architecture is {wanted!r}; supported are mixtral (of Llama or Mistral "
                "models) and qwen3_moe (of Qwen3 models)"
            )
        self.summary = "Mixture of experts"
        self.notes += [
            "mixture: the base reads prompts in float64 (bfloat16 in mergekit), one at a time and "
            "without padding",
            "mixture: the base's sliding window is kept; mergekit removes it",
        ]

    def _compose(self) -> dict[str, Any]:
        experts = self._data[EXPERTS]
        if "base_model" not in self._data or not isinstance(experts, list) or not experts:
            raise self._refuse("it needs a base_model and a list of experts")
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
            raise self._refuse("an expert without source_model")
        parameters: dict[str, Any] = {}
        for key, value in item.items():
            if key in PROMPTS:
                if value is None:
                    continue
                if not isinstance(value, list) or not all(isinstance(p, str) for p in value):
                    raise self._refuse(f"{key} of an expert is not a list of strings")
                if value:
                    parameters[PROMPTS[key]] = list(value)
            elif key in _NOISE and value not in (None, _NOISE[key]):
                raise self._refuse(f"{key!r} of an expert is not supported")
        self._ignored(item, ("source_model", *PROMPTS, *_NOISE), "an expert")
        module = self._model(item["source_model"])
        if module != base:
            parameters["others"] = "drop"
        return {"op": "expert", "module": module, "parameters": parameters}
