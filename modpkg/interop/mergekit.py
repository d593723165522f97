"""Recipes of mergekit (YAML) converted to module projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.adapters.layers import layer_path
from modpkg.core.bounds import RECIPE_BYTES, RECIPE_DEPTH, RECIPE_VALUES
from modpkg.core.errors import ConversionError, ModpkgError, PackError
from modpkg.core.extras import require_extra
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import write_atomically
from modpkg.core.packs import read_pack_header
from modpkg.core.regular_file import read_text
from modpkg.interop.bounded_yaml import MalformedYaml, read_yaml
from modpkg.interop.hub_licenses import UNKNOWN_LICENSE
from modpkg.interop.mergekit_experts import EXPERTS, MixtureRecipe
from modpkg.interop.mergekit_recipe import Recipe
from modpkg.interop.model_card import license_of, read_card
from modpkg.interop.module_project import new_project
from modpkg.manifest.read import parse_manifest

_KEYS = (
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "modules", "name"),
)


class RecipeMethod(Struct, frozen=True, kw_only=True):
    """A merge method of mergekit, and its counterpart in modpkg."""

    name: str
    shared: dict[str, str] = {}
    """Parameters of the method: mergekit's name to modpkg's."""
    each: dict[str, str] = {}
    """Parameters of each model, except the weight."""
    weighted: bool = True
    needs_base: bool = True
    without_base: dict[str, Any] = {}
    """Parameters to set where the recipe has no base_model."""
    notes: tuple[str, ...] = ()


_TASK = {"normalize": "normalize", "lambda": "lambda"}
_SPARSE = {**_TASK, "rescale": "rescale"}
_DENSITY = {"density": "density"}
_RANDOM = (
    "its random numbers are modpkg's (by seed, tensor and source), and kept values are "
    "divided by their probability, as in the paper; mergekit 0.1.5 rescales them to the sum of "
    "magnitudes instead",
)
_FROM_MODELS = {"from_base": False}

METHODS = {
    "linear": RecipeMethod(name="linear", shared={"normalize": "normalize"}, needs_base=False),
    "task_arithmetic": RecipeMethod(name="task-arithmetic", shared=_TASK),
    "slerp": RecipeMethod(name="slerp", shared={"t": "t"}, weighted=False),
    "nuslerp": RecipeMethod(name="nuslerp", needs_base=False, without_base=_FROM_MODELS),
    "multislerp": RecipeMethod(
        name="multislerp",
        shared={"normalize_weights": "normalize_weights", "eps": "eps"},
        needs_base=False,
        without_base=_FROM_MODELS,
    ),
    "karcher": RecipeMethod(
        name="karcher",
        shared={"max_iter": "max_iter", "tol": "tol"},
        weighted=False,
        needs_base=False,
    ),
    "model_stock": RecipeMethod(
        name="model-stock", shared={"filter_wise": "filter_wise"}, weighted=False
    ),
    "ties": RecipeMethod(name="ties-mergekit", shared=_SPARSE, each=_DENSITY),
    "dare_linear": RecipeMethod(name="dare-linear", shared=_SPARSE, each=_DENSITY, notes=_RANDOM),
    "dare_ties": RecipeMethod(name="dare-ties", shared=_SPARSE, each=_DENSITY, notes=_RANDOM),
    "della": RecipeMethod(
        name="della", shared=_SPARSE, each={**_DENSITY, "epsilon": "epsilon"}, notes=_RANDOM
    ),
    "della_linear": RecipeMethod(
        name="della-linear", shared=_SPARSE, each={**_DENSITY, "epsilon": "epsilon"}, notes=_RANDOM
    ),
    "breadcrumbs": RecipeMethod(
        name="breadcrumbs", shared=_SPARSE, each={**_DENSITY, "gamma": "gamma"}
    ),
    "breadcrumbs_ties": RecipeMethod(
        name="breadcrumbs-ties", shared=_SPARSE, each={**_DENSITY, "gamma": "gamma"}
    ),
    "sce": RecipeMethod(name="sce", shared={"select_topk": "select_topk"}, weighted=False),
    "arcee_fusion": RecipeMethod(
        name="arcee-fusion",
        weighted=False,
        notes=(
            "its quantiles are those of all values; mergekit 0.1.5 draws a million of a larger "
            "tensor's values at random",
        ),
    ),
    "nearswap": RecipeMethod(name="nearswap", shared={"t": "t"}, weighted=False),
    "ram": RecipeMethod(name="ram", shared={"epsilon": "epsilon"}, weighted=False),
    "ramplus_tl": RecipeMethod(
        name="ramplus-tl",
        shared={"r": "r", "alpha": "alpha", "epsilon": "epsilon"},
        weighted=False,
    ),
    "passthrough": RecipeMethod(name="passthrough", needs_base=False, each={"scale": "scale"}),
}
"""mergekit's methods; docs/merging.md lists the differences."""

_ELSEWHERE = {key for method in METHODS.values() for key in (*method.shared, *method.each)}
_FLATTEN, _ROW_WISE = "nuslerp_flatten", "nuslerp_row_wise"


def import_mergekit(
    source: Path, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``model`` from a recipe, and return warnings: what differs.

    Raises:
        ConversionError: The recipe is malformed, or has a key without a counterpart.
        MissingExtra: PyYAML is not installed.
        InstallError: `out` cannot be written.
    """
    data = _read(source)
    recipe = MixtureRecipe(source, data) if EXPERTS in data else MergeRecipe(source, data)
    spdx, warnings = license_of(read_card(source.parent), license)
    if license is None:
        spdx = UNKNOWN_LICENSE
    text = recipe.manifest(name, version, spdx)
    with new_project(out) as staged:
        try:
            parse_manifest(text, staged / MANIFEST)
        except ModpkgError as error:
            raise ConversionError("M801", path=source, reason=str(error).rstrip(".")) from None
        write_atomically(staged / MANIFEST, text.encode())
    return warnings + recipe.notes


def _read(source: Path) -> dict[str, Any]:
    what, extra = "Reading mergekit's recipes", "mergekit"
    require_extra("yaml", what=what, package="PyYAML", extra=extra)
    if source.is_dir():
        raise ConversionError("M801", path=source, reason="it is a folder; name its YAML file")
    try:
        text = read_text(source, RECIPE_BYTES)
    except (OSError, ValueError) as error:
        raise ConversionError("M801", path=source, reason=f"it is not YAML ({error})") from None
    try:
        data = read_yaml(text, what=what, extra=extra, values=RECIPE_VALUES, depth=RECIPE_DEPTH)
    except MalformedYaml as error:
        raise ConversionError("M801", path=source, reason=str(error)) from None
    if not isinstance(data, dict):
        raise ConversionError(
            "M801", path=source, reason="it is not a recipe: no mapping at the top level"
        )
    return data


class MergeRecipe(Recipe):
    """A recipe for ``mergekit-yaml``."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        super().__init__(path, data, _KEYS)
        if data.get("modules"):
            raise self._refuse("'modules' (several towers of one model) is not supported")
        written = data.get("merge_method")
        if not isinstance(written, str) or written not in METHODS:
            raise self._refuse(f"its merge_method is {written!r}; known are {', '.join(METHODS)}")
        self._method = METHODS[written]
        self.summary = f"{written} merge"
        self.notes += [f"{written}: {note}" for note in self._method.notes]

    def _compose(self) -> dict[str, Any]:
        self._tokenizer()
        return self._passthrough() if self._method.name == "passthrough" else self._merge()

    # Models -------------------------------------------------------------------------------

    def _sources(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the merged models, and the parameters of their slice."""
        if isinstance(models := self._data.get("models"), list) and not self._data.get("slices"):
            return [self._entry(item) for item in models], {}
        slices = self._data.get("slices")
        if not isinstance(slices, list) or len(slices) != 1:
            raise self._refuse(
                "it merges several slices; modpkg merges whole models, and takes slices with "
                "passthrough"
            )
        piece = self._table(slices[0], "a slice")
        sources = [self._entry(item) for item in self._list(piece.get("sources"), "sources")]
        ranges = [self._list(item.get("layer_range"), "layer_range") for item in sources]
        only = ranges[0] if ranges else []
        if any(other != only for other in ranges) or len(only) != 2 or only[0] != 0:
            raise self._refuse("it merges other layers than all of them, which is not supported")
        self.notes.append(f"the slice of layers 0 to {only[1]} is assumed to be all layers")
        return sources, self._scope(piece)

    def _scope(self, holder: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of the recipe, a slice or a model."""
        return self._table(holder.get("parameters"), "parameters")

    def _entry(self, item: Any) -> dict[str, Any]:
        if not isinstance(item, dict) or "model" not in item:
            raise self._refuse("an entry of its models has no 'model'")
        return item

    # Methods ------------------------------------------------------------------------------

    def _merge(self) -> dict[str, Any]:
        method, common = self._method, self._scope(self._data)
        entries, sliced = self._sources()
        names = [self._model(entry["model"]) for entry in entries]
        if len(set(names)) != len(names):
            raise self._refuse("it names a model twice")
        written = self._data.get("base_model")
        if written is None and method.needs_base:
            raise self._refuse(f"{self._data['merge_method']} needs a base_model")
        base = self._model(written) if written is not None else names[0]
        parameters = self._parameters(method.shared, [sliced, common])
        if method.name == "nuslerp":
            parameters.update(self._vectors([sliced, common]))
        if written is None:
            parameters.update(method.without_base)
        counts = method.name == "linear" or (written is None and method.weighted)
        scopes = {
            name: [self._scope(entry), sliced, common]
            for name, entry in zip(names, entries, strict=True)
        }
        if counts:
            own = self._weight(scopes[base]) if base in names else 0.0
            parameters["base_weight"] = own
        steps = []
        for name in names:
            if name == base:
                continue
            step: dict[str, Any] = {"op": "dense", "module": name}
            if method.weighted:
                step["scale"] = self._weight(scopes[name])
            each = self._parameters(method.each, scopes[name])
            steps.append({**step, "parameters": each} if each else step)
        self._check(entries, sliced, common)
        return {"base": base, "method": method.name, "parameters": parameters, "steps": steps}

    def _vectors(self, scopes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return the parameter for the vectors that nuslerp interpolates, if they are not whole
        tensors. What mergekit calls row-wise are vectors of a tensor's first dimension."""
        found = {_FLATTEN: True, _ROW_WISE: False}
        for key in found:
            value = next((scope[key] for scope in scopes if key in scope), found[key])
            if not isinstance(value, bool):
                raise self._refuse(f"{key} is {value!r}; only true or false is supported")
            found[key] = value
        if found[_FLATTEN]:
            return {}
        return {"vectors": "columns" if found[_ROW_WISE] else "rows"}

    def _weight(self, scopes: Sequence[Mapping[str, Any]]) -> Any:
        values = _first_applicable([scope["weight"] for scope in scopes if "weight" in scope])
        if values is None:
            raise self._refuse("a model has no weight")
        return values

    def _parameters(
        self, names: Mapping[str, str], scopes: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        values = {}
        for theirs, ours in names.items():
            value = _first_applicable([scope[theirs] for scope in scopes if theirs in scope])
            if value is not None:
                values[ours] = value
        return values

    def _check(self, entries: Sequence[dict[str, Any]], *scopes: Mapping[str, Any]) -> None:
        """Refuse parameters that have no counterpart."""
        known = {*self._method.shared, *self._method.each}
        known |= {"weight"} if self._method.weighted else set()
        known |= {_FLATTEN, _ROW_WISE} if self._method.name == "nuslerp" else set()
        for scope in (*map(self._scope, entries), *scopes):
            for key, value in scope.items():
                if key in known:
                    continue
                if key == "weight":
                    self.notes.append(f"{self._data['merge_method']} has no use for a weight")
                elif key in _ELSEWHERE:
                    self.notes.append(
                        f"{key} is left out: it is no parameter of {self._data['merge_method']}, "
                        "and mergekit ignores it"
                    )
                elif key == "embed_slerp":
                    self.notes.append(
                        "embed_slerp is left out: mergekit 0.1.5 has no such parameter, and merges "
                        "embeddings as all other tensors"
                    )
                elif key == "int8_mask":
                    self.notes.append(
                        "int8_mask saves memory in mergekit and changes no value; it is left out"
                    )
                else:
                    raise self._refuse(
                        f"{self._data['merge_method']} with {key} = {value!r} is not supported"
                    )

    def _passthrough(self) -> dict[str, Any]:
        common = self._scope(self._data)
        parameters = self._parameters({"scale": "scale"}, [common])
        slices = self._list(self._data.get("slices"), "slices")
        if not slices:
            entries, _ = self._sources()
            if len(entries) != 1:
                raise self._refuse("passthrough takes one model, or slices")
            own = self._parameters({"scale": "scale"}, [self._scope(entries[0]), common])
            self._check(entries, common)
            base = self._model(entries[0]["model"])
            return {"base": base, "method": "passthrough", "parameters": own}
        runs = []
        for item in slices:
            piece = self._table(item, "a slice")
            sources = [self._entry(each) for each in self._list(piece.get("sources"), "sources")]
            extent = self._list(sources[0].get("layer_range"), "layer_range") if sources else []
            if len(sources) != 1 or len(extent) != 2:
                raise self._refuse("a slice of passthrough has one source with a layer_range")
            scopes = [self._scope(sources[0]), self._scope(piece)]
            self._check(sources, scopes[1], common)
            run: dict[str, Any] = {
                "module": self._model(sources[0]["model"]),
                "range": extent,
            }
            if scale := self._parameters({"scale": "scale"}, [*scopes, common]):
                run["scale"] = scale["scale"]
            runs.append(run)
        first, last = runs[0], runs[-1]
        if self._data.get("base_model") is not None:
            self._model(self._data["base_model"])
            self.notes.append("passthrough uses only the config of base_model")
        if last["module"] != first["module"]:
            path = next(old for old, new in self._names.items() if new == last["module"])
            last["tensors"] = self._after_layers(path)
        return {
            "base": first["module"],
            "method": "passthrough",
            "parameters": parameters,
            "layers": runs,
        }

    def _after_layers(self, path: str) -> list[str]:
        """Return the tensors after the last layer, which mergekit takes from the last slice."""
        folder = self._path.parent / path if not Path(path).is_absolute() else Path(path)
        names: set[str] = set()
        try:
            for pack in sorted(folder.glob("*.safetensors")):
                names.update(read_pack_header(pack))
        except (OSError, PackError):
            names = set()
        values = sorted(
            name for name in names if layer_path(name) is None and "embed" not in name.lower()
        )
        if not values:
            values = ["model.norm.weight", "lm_head.weight"]
            self.notes.append(
                f"tensors after the last layer come from {path}, which is not available: "
                f"{' and '.join(values)} are assumed; check that it has them"
            )
        return values

    # Tokenizers ---------------------------------------------------------------------------

    def _tokenizer(self) -> None:
        source = self._data.get("tokenizer_source")
        section = self._data.get("tokenizer")
        if isinstance(section, dict):
            if set(section) - {"source"}:
                raise self._refuse("'tokenizer' with its own tokens is not supported")
            source = section.get("source")
        if source == "base":
            self.notes.append(
                "tokenizer_source: the base's tokenizer is used, and embedding rows are merged by "
                "index; models with another vocabulary are refused"
            )
        elif source is not None:
            raise self._refuse(
                f"its tokenizer_source is {source!r}; only 'base' is supported, because "
                "modpkg does not remap embedding rows to another vocabulary"
            )
        if self._data.get("chat_template") is not None:
            self.notes.append(
                "chat_template is left out; the base's own comes with its tokenizer's files"
            )


def _first_applicable(settings: Sequence[Any]) -> Any:
    """Return one setting for several; earlier ones take precedence."""
    values: list[Any] = []
    for setting in settings:
        items = [setting] if isinstance(setting, dict) else setting
        if not (isinstance(items, list) and any(isinstance(item, dict) for item in items)):
            value = _numbers(setting)
            return [*values, {"value": value}] if values else value
        for item in items:
            if not isinstance(item, dict):
                return setting  # which no manifest has: refused when it is read
            value = _numbers(item.get("value"))
            if item.get("filter") in (None, "*"):
                return [*values, {"value": value}] if values else value
            values.append({"filter": item["filter"], "value": value})
    return values or None


def _numbers(value: Any) -> Any:
    """Convert numbers like 1e-5, which YAML 1.1 reads as text."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
