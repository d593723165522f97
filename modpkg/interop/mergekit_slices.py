"""What a recipe of mergekit takes its tensors from: models, or layers of them, in slices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from modpkg.adapters.layers import layer_path
from modpkg.core.dtypes import CONFIG_DTYPES
from modpkg.core.errors import PackError
from modpkg.core.interface import LAYERS
from modpkg.core.packs import PackTensor, read_pack_header
from modpkg.core.text_config import text_part
from modpkg.interop.mergekit_recipe import Recipe
from modpkg.interop.mergekit_settings import WrongValue, converted

TOWER = "default"
"""What mergekit calls a model that has only one stack of layers."""
_EMBEDS = re.compile(r"embed|(?:^|\.)w[tp]e\.", re.IGNORECASE)


class SlicedRecipe(Recipe):
    """A recipe with ``models`` or ``slices``."""

    @cached_property
    def _tower(self) -> dict[str, Any]:
        """The table that has ``models`` or ``slices``."""
        return self._only_tower()

    def _only_tower(self) -> dict[str, Any]:
        """Return the table that has ``models`` or ``slices``.

        It is the recipe itself, or the one in ``modules``, as mergekit writes its own config.
        """
        given = [key for key in ("models", "slices", "modules") if self._data.get(key)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise self._refuse(f"it needs one of 'models', 'slices' and 'modules', and has {found}")
        if given != ["modules"]:
            return {key: self._data[key] for key in given}
        towers = self._table(self._data["modules"], "modules")
        return self._tower_named(TOWER, towers[TOWER])

    def _tower_named(self, name: str, given: Any) -> dict[str, Any]:
        """Return the table of a module."""
        tower = self._table(given, f"module {name!r}")
        self._ignored(tower, ("models", "slices", "parameters"), f"module {name!r}")
        if bool(tower.get("models")) == bool(tower.get("slices")):
            raise self._refuse(f"module {name!r} needs either 'models' or 'slices'")
        return tower

    def _common(self) -> list[dict[str, Any]]:
        """Return the parameters of the tower and of the recipe."""
        tower = [self._scope(self._tower)] if "modules" in self._data else []
        return [*tower, self._scope(self._data)]

    def _scope(self, holder: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of the recipe, a tower, a slice or a model."""
        return self._table(holder.get("parameters"), "parameters")

    def _entry(self, item: Any, *keys: str) -> dict[str, Any]:
        if not isinstance(item, dict) or "model" not in item:
            raise self._refuse("an entry of its models has no 'model'")
        self._ignored(item, ("model", "parameters", *keys), "a model's entry")
        return item

    def _slice(self, item: Any) -> tuple[dict[str, Any], list[dict[str, Any]], list[list[int]]]:
        """Return a slice, its sources, and the layers of each."""
        piece = self._table(item, "a slice")
        self._ignored(piece, ("sources", "base_model", "parameters"), "a slice")
        sources = [
            self._entry(each, "layer_range") for each in self._list(piece.get("sources"), "sources")
        ]
        if not sources:
            raise self._refuse("a slice of it has no sources")
        return piece, sources, [self._extent(each) for each in sources]

    def _extent(self, source: Mapping[str, Any]) -> list[int]:
        """Return a source's first layer and the one after its last.

        Raises:
            ConversionError: It has none, or its model, which is a folder here, lacks some of them.
        """
        given = self._list(source.get("layer_range"), "layer_range")
        try:
            first, stop = (converted(end, int) for end in given)
        except (WrongValue, ValueError):
            first = stop = 0
        if not 0 <= first < stop:
            raise self._refuse(f"a layer_range is {given!r}, which is no first and last layer")
        layers = self._layers(source["model"])
        if layers is not None and stop > layers:
            name = self._path_of(source["model"])[0]
            raise self._refuse(f"it names layers up to {stop} of {name}, which has {layers}")
        return [first, stop]

    def _layers(self, model: Any) -> int | None:
        """Return how many layers a model that is a folder here has."""
        _, text = text_part(self._config(self._path_of(model)[0]))
        return next((text[key] for key in LAYERS if isinstance(text.get(key), int)), None)

    def _tensors(self, path: str) -> dict[str, PackTensor]:
        """Return the tensors of a model that is a folder here; else none."""
        found: dict[str, PackTensor] = {}
        try:
            for pack in sorted(self._folder(path).glob("*.safetensors")):
                found.update(read_pack_header(pack))
        except (OSError, PackError):
            return {}
        return found

    def _result_dtype(self) -> tuple[str, str] | None:
        # mergekit takes the one that holds the values of all models. A LoRA has no say: what it
        # makes of its model is rounded to the model's dtype first.
        loras = {lora for _, lora in self.parts}
        by_model = [
            {tensor.dtype for tensor in self._tensors(path).values()} & {*CONFIG_DTYPES.values()}
            for path, name in self._names.items()
            if name not in loras
        ]
        if not all(by_model):
            self._note("the result has the base's dtype; mergekit takes the widest of its models")
            return None
        dtypes = set[str]().union(*by_model)
        if len(dtypes) == 1 or any(len(each) > 1 for each in by_model):
            return None
        widest = next(name for name, dtype in CONFIG_DTYPES.items() if dtype == "F32")
        return widest, f"its models have several dtypes, so the result is {widest}, as mergekit's"

    def _outside_layers(self, path: str, *, before: bool) -> tuple[list[str], bool]:
        """Return the tensors of a model that are before, or after, its layers.

        And whether they are known: those of a model that is no folder here are assumed.
        """
        values = sorted(
            name
            for name in self._tensors(path)
            if layer_path(name) is None and (_EMBEDS.search(name) is not None) == before
        )
        if values:
            return values, True
        assumed = (
            ["model.embed_tokens.weight"] if before else ["model.norm.weight", "lm_head.weight"]
        )
        return assumed, False

    def _assumed(self, path: str, names: list[str], *, before: bool) -> None:
        """Note which tensors of a model are assumed to be before, or after, its layers."""
        self._note(
            f"tensors {'before the first' if before else 'after the last'} layer come from "
            f"{path}, which is not available: {' and '.join(names)} are assumed; check "
            "that it has them"
        )
