"""Recipes of mergekit for models of several towers: ``modules``, each with models or slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modpkg.interop.mergekit_merges import MergedRecipe
from modpkg.interop.mergekit_slices import TOWER

Prefixes = dict[str, tuple[str, ...]]
"""By mergekit's name for a tower, what the names of its tensors on disk begin with."""

_TEXT = "text_decoder"
_NESTED: Prefixes = {
    _TEXT: ("language_model.",),
    "multi_modal_projector": ("multi_modal_projector.",),
    "vision_tower": ("vision_tower.",),
}
_QWEN2: Prefixes = {
    _TEXT: ("model.", "lm_head."),
    "multi_modal_projector": ("visual.merger.",),
    "vision_tower": ("visual.patch_embed.", "visual.blocks."),
}
_QWEN3: Prefixes = {
    _TEXT: ("model.language_model.", "lm_head."),
    "multi_modal_projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "vision_tower": (
        "model.visual.patch_embed.",
        "model.visual.pos_embed.",
        "model.visual.blocks.",
    ),
}
TOWERS: dict[str, Prefixes] = {
    "gemma3": _NESTED,
    "mistral3": _NESTED,
    "llama4": {
        _TEXT: ("language_model.",),
        "multi_modal_projector": ("multi_modal_projector.",),
        "vision_model": ("vision_model.",),
    },
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "t5": {
        "decoder": ("decoder.",),
        "encoder": ("encoder.",),
        "shared": ("shared.", "lm_head."),
    },
    "whisper": {"decoder": ("model.decoder.",), "encoder": ("model.encoder.",)},
}
"""By ``model_type``, mergekit's modules."""


class TowerRecipe(MergedRecipe):
    """A recipe that may have several towers in ``modules``."""

    def _composed_tower(self) -> dict[str, Any]:
        """Return the composition of a model that has no other tower than this one."""
        raise NotImplementedError

    def _towers(self) -> dict[str, Any] | None:
        """Return the composition of several towers; None if the recipe has no such ones."""
        towers = self._table(self._data.get("modules"), "modules")
        beside = self._data.get("models") or self._data.get("slices")
        if beside or not towers or list(towers) == [TOWER]:
            return None
        runs: list[dict[str, Any]] = []
        tables = {name: self._tower_named(name, table) for name, table in towers.items()}
        known = self._prefixes(tables)
        for name, table in tables.items():
            if name not in known:
                raise self._refuse(f"its module is {name!r}; known are {', '.join(known)}")
            self._tower = table
            runs += self._runs(name, known[name])
        if left := [name for name in known if name not in towers]:
            self._note(f"{' and '.join(left)} are the base's; mergekit leaves their tensors out")
        base = runs[0]["module"]
        if self._data.get("base_model") is not None:
            base = self._model(self._data["base_model"])
        return {"base": base, "method": self._method.name, "layers": runs}

    def _runs(self, name: str, prefixes: Sequence[str]) -> list[dict[str, Any]]:
        """Return the runs of the tower that is the current one."""
        composed = self._composed_tower()
        layers, steps = composed.pop("layers", ()), composed.pop("steps", ())
        if layers and not steps:
            if name != _TEXT:
                raise self._refuse(f"its module {name!r} has slices; only {_TEXT!r} may have some")
            if composed.get("parameters"):
                raise self._refuse(f"slices of its module {name!r} have a scale outside of layers")
            for run in layers:
                if own := [t for t in run.pop("tensors", ()) if t.startswith(tuple(prefixes))]:
                    run["tensors"] = own
            return [*layers]
        if composed.get("parameters") and not steps:
            raise self._refuse(f"its module {name!r} is one model that is multiplied")
        whole: dict[str, Any] = {"module": composed["base"], "tensors": [*prefixes]}
        if steps:
            whole |= {"steps": steps, "parameters": composed["parameters"]}
        return [{key: value for key, value in whole.items() if value}]

    def _prefixes(self, tables: dict[str, dict[str, Any]]) -> Prefixes:
        """Return what the names of each tower's tensors begin with.

        Raises:
            ConversionError: No model of the recipe is a folder here, or of a kind that is known.
        """
        lists = [self._list(table.get("models"), "models") for table in tables.values()]
        references = [self._entry(each)["model"] for entries in lists for each in entries]
        if self._data.get("base_model") is not None:
            references.append(self._data["base_model"])
        paths = [self._path_of(each)[0] for each in references]
        kinds = {str(kind) for each in paths if (kind := self._config(each).get("model_type"))}
        if len(kinds) != 1:
            raise self._refuse(
                "it has several modules; to know their tensors, its models that are folders beside "
                f"it have to be of one kind, and are of {', '.join(sorted(kinds)) or 'none'}"
            )
        kind = kinds.pop()
        if kind not in TOWERS:
            raise self._refuse(
                f"its modules are of {kind!r}; known are those of {', '.join(TOWERS)}"
            )
        names = {name for path in paths for name in self._tensors(path)}
        return {
            tower: tuple(
                each for each in prefixes if not names or any(n.startswith(each) for n in names)
            )
            for tower, prefixes in TOWERS[kind].items()
        }
