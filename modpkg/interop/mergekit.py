"""Recipes of mergekit (YAML) converted to module projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.compose.reducers import REQUIRED, find_reducer
from modpkg.core.bounds import RECIPE_BYTES, RECIPE_DEPTH, RECIPE_VALUES
from modpkg.core.errors import ConversionError, ModpkgError
from modpkg.core.extras import require_extra
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import write_atomically
from modpkg.core.regular_file import read_text
from modpkg.interop.bounded_yaml import MalformedYaml, read_yaml
from modpkg.interop.hub_licenses import UNKNOWN_LICENSE
from modpkg.interop.mergekit_experts import EXPERTS, MixtureRecipe
from modpkg.interop.mergekit_settings import (
    WrongValue,
    keys_of_filters,
    of_scopes,
    setting_of,
    value_outside_layers,
)
from modpkg.interop.mergekit_slices import SlicedRecipe
from modpkg.interop.model_card import license_of, read_card
from modpkg.interop.module_project import new_project
from modpkg.manifest.read import parse_manifest

_KEYS = (
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "modules"),
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

_TEMPLATES = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}
"""Chat templates that have a name. The others of mergekit are those of single models."""

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


class MergeRecipe(SlicedRecipe):
    """A recipe for ``mergekit-yaml``."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        super().__init__(path, data, _KEYS)
        written = data.get("merge_method")
        if not isinstance(written, str) or written not in METHODS:
            raise self._refuse(f"its merge_method is {written!r}; known are {', '.join(METHODS)}")
        self._written, self._method = written, METHODS[written]
        reducer = find_reducer(self._method.name, "mergekit")
        self._kinds = {
            name: float if default is REQUIRED else type(default)
            for name, default in {**reducer.parameters, **reducer.step_parameters}.items()
        }
        self._required = {n for n, default in reducer.parameters.items() if default is REQUIRED}
        self.summary = f"{written} merge"
        self.notes += [f"{written}: {note}" for note in self._method.notes]

    def _compose(self) -> dict[str, Any]:
        self._tokenizer()
        composed = self._passthrough() if self._method.name == "passthrough" else self._merge()
        return composed | self._template()

    # Merges -------------------------------------------------------------------------------

    def _sources(self) -> tuple[list[dict[str, Any]], dict[str, Any], list[int] | None]:
        """Return the merged models, the slice that they are in, and its layers, if it has some."""
        if models := self._list(self._tower.get("models"), "models"):
            return [self._entry(item) for item in models], {}, None
        slices = self._list(self._tower.get("slices"), "slices")
        if len(slices) != 1:
            raise self._refuse(
                "it merges several slices; modpkg merges whole models, and takes slices with "
                "passthrough"
            )
        piece, sources, extents = self._slice(slices[0])
        extent = extents[0]
        if any(each != extent for each in extents) or extent[0]:
            raise self._refuse("it merges other layers than all of them, which is not supported")
        for source in sources:
            layers = self._layers(source["model"])
            if layers is not None and layers != extent[1]:
                name = self._path_of(source["model"])[0]
                raise self._refuse(
                    f"it merges {extent[1]} layers of {name}, which has {layers}; a part of the "
                    "layers is supported only with passthrough"
                )
        return sources, piece, extent

    def _merge(self) -> dict[str, Any]:
        method, common = self._method, self._common()
        entries, piece, extent = self._sources()
        names = [self._model(entry["model"]) for entry in entries]
        if len(set(names)) != len(names):
            raise self._refuse("it names a model twice")
        base, written = self._base(piece, names)
        within = [*([self._scope(piece)] if piece else []), *common]
        parameters = self._parameters(method.shared, within)
        for missing in self._required & {*method.shared.values()} - parameters.keys():
            raise self._refuse(f"{self._written} needs the parameter {missing!r} of the merge")
        if method.name == "nuslerp":
            parameters.update(self._vectors(within))
        if not written:
            parameters.update(method.without_base)
        scopes = {
            name: [self._scope(entry), *within] for name, entry in zip(names, entries, strict=True)
        }
        # To mergekit the base_model is one more of the models, if they are not in slices.
        counted = base in names or (extent is None and not method.needs_base)
        if method.name == "linear" or (not written and method.weighted):
            parameters["base_weight"] = (
                self._weight(scopes.get(base, within), base) if counted else 0.0
            )
        elif method.name == "karcher" and not counted:
            parameters["with_base"] = False
        steps = []
        for name in names:
            if name == base:
                continue
            step: dict[str, Any] = {"op": "dense", "module": name}
            if method.weighted:
                step["scale"] = self._weight(scopes[name], name)
            each = self._parameters(method.each, scopes[name])
            steps.append({**step, "parameters": each} if each else step)
        for entry in entries:
            self._check(self._scope(entry), of_model=True)
        for scope in within:
            self._check(scope)
        whole: dict[str, Any] = {"base": base, "method": method.name, "parameters": parameters}
        if extent is not None and any(self._layers(each["model"]) is None for each in entries):
            # A fine-tune with more layers than these is refused when it is composed.
            whole["layers"] = [{"module": base, "range": extent}]
            self._note(
                f"it merges layers 0 to {extent[1]}, which have to be all that its models have"
            )
        return {**whole, "steps": steps}

    def _base(self, piece: Mapping[str, Any], names: Sequence[str]) -> tuple[str, bool]:
        """Return the base of the merge, and whether the recipe names it; else it is the first."""
        own, common = piece.get("base_model"), self._data.get("base_model")
        if own is not None:
            if common is not None and self._path_of(common) != self._path_of(own):
                self._note(
                    f"the slice's own base_model, {self._path_of(own)[0]}, gives config and "
                    f"tokenizer too; mergekit takes these from {self._path_of(common)[0]}"
                )
            return self._model(own), True
        if common is not None:
            return self._model(common), True
        if self._method.needs_base:
            raise self._refuse(f"{self._written} needs a base_model")
        return names[0], False

    def _setting(self, scopes: Sequence[Mapping[str, Any]], key: str, kind: type) -> Any:
        found = of_scopes(scopes, key)
        for setting in found:
            for other in sorted(keys_of_filters(setting)):
                self._note(
                    f"{other[:100]!r} of a value of {key} is ignored, as mergekit ignores it"
                )
        try:
            return setting_of(found, kind)
        except WrongValue as error:
            raise self._refuse(f"{key} {error}") from None

    def _vectors(self, scopes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return the parameter for the vectors that nuslerp interpolates, if they are not whole
        tensors. What mergekit calls row-wise are vectors of a tensor's first dimension."""
        found = {_FLATTEN: True, _ROW_WISE: False}
        for key in found:
            value = self._setting(scopes, key, bool)
            if value is not None:
                found[key] = value
            if not isinstance(found[key], bool):
                raise self._refuse(f"{key} is {value!r}; only true or false is supported")
        if not found[_FLATTEN]:
            return {"vectors": "columns" if found[_ROW_WISE] else "rows"}
        if found[_ROW_WISE]:
            self._note(f"{_ROW_WISE} has no effect beside {_FLATTEN}")
        return {}

    def _weight(self, scopes: Sequence[Mapping[str, Any]], model: str) -> Any:
        values = self._setting(scopes, "weight", float)
        if values is None:
            raise self._refuse(f"{model} has no weight")
        return values

    def _parameters(
        self, names: Mapping[str, str], scopes: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        values = {}
        for theirs, ours in names.items():
            value = self._setting(scopes, theirs, self._kinds[ours])
            if value is not None:
                values[ours] = value
        return values

    def _check(self, scope: Mapping[str, Any], *, of_model: bool = False) -> None:
        """Note the parameters that mergekit does not read, and refuse those without counterpart."""
        each = {*self._method.each} | ({"weight"} if self._method.weighted else set())
        for key in scope:
            if key in each or (key in self._method.shared and not of_model):
                continue
            if key in self._method.shared:
                self._note(f"{key} of a model is ignored, as mergekit does: it is one of the merge")
            elif key == "int8_mask":
                self._note(
                    "int8_mask saves memory in mergekit and changes no value; it is left out"
                )
            elif self._written != "nuslerp" or key not in (_FLATTEN, _ROW_WISE) or of_model:
                self._note(
                    f"{key[:100]} is left out: {self._written} of mergekit 0.1.5 has no such "
                    "parameter"
                )

    # Layers of several models -------------------------------------------------------------

    def _passthrough(self) -> dict[str, Any]:
        common = self._common()
        for scope in common:
            self._check(scope)
        if self._tower.get("models"):
            entries, _, _ = self._sources()
            if len(entries) != 1:
                raise self._refuse("passthrough takes one model, or slices")
            self._check(self._scope(entries[0]))
            own = self._parameters({"scale": "scale"}, [self._scope(entries[0]), *common])
            base = self._model(entries[0]["model"])
            named = self._data.get("base_model")
            if named is not None and self._model(named) != base:
                raise self._refuse("passthrough takes one model, and base_model is another")
            return {"base": base, "method": "passthrough", "parameters": own}
        runs, paths = [], []
        for item in self._list(self._tower["slices"], "slices"):
            piece, sources, extents = self._slice(item)
            if len(sources) != 1:
                raise self._refuse("a slice of passthrough has one source with a layer_range")
            if piece.get("base_model") is not None:
                self._note("base_model of a slice is ignored: passthrough merges nothing")
            scopes = [self._scope(sources[0]), self._scope(piece)]
            for scope in scopes:
                self._check(scope)
            run: dict[str, Any] = {"module": self._model(sources[0]["model"]), "range": extents[0]}
            run |= self._parameters({"scale": "scale"}, [*scopes, *common])
            runs.append(run)
            paths.append(self._path_of(sources[0]["model"])[0])
        base = runs[0]["module"]
        if self._data.get("base_model") is not None:
            base = self._model(self._data["base_model"])
            self._note("passthrough uses only config and tokenizer of base_model")
        parameters = self._around_layers(base, runs, paths)
        return {"base": base, "method": "passthrough", "parameters": parameters, "layers": runs}

    def _around_layers(
        self, base: str, runs: Sequence[dict[str, Any]], paths: Sequence[str]
    ) -> dict[str, Any]:
        """Add the tensors outside of the layers to the first and the last run.

        mergekit takes those before the layers from the first slice and those after them from the
        last one, and scales them as these. Returns the method's parameters: the scales.
        """
        scales = []
        for number, before in ((0, True), (-1, False)):
            run, path = runs[number], paths[number]
            differs = run["module"] != base
            names, known = self._outside_layers(path, before=before)
            own = {name: value_outside_layers(run.get("scale"), name) for name in names}
            own = {name: value for name, value in own.items() if value not in (None, 1.0)}
            scales += [{"filter": name, "value": value} for name, value in own.items()]
            if differs:
                run["tensors"] = [*run.get("tensors", []), *names]
            if not known and (differs or own):
                self._note(
                    f"tensors {'before the first' if before else 'after the last'} layer come from "
                    f"{path}, which is not available: {' and '.join(names)} are assumed; check "
                    "that it has them"
                )
        return {"scale": scales} if scales else {}

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

    def _template(self) -> dict[str, Any]:
        """Return the key of ``[compose]`` for the recipe's chat template, if it has one."""
        given = self._data.get("chat_template")
        if given in (None, ""):
            return {}
        if not isinstance(given, str):
            raise self._refuse(f"its chat_template is {given!r}, which is no text")
        if given == "auto":
            return {"chat_template": given}
        if "{" not in given:
            if given not in _TEMPLATES:
                raise self._refuse(
                    f"its chat_template is {given[:100]!r}; known are 'auto' and "
                    f"{', '.join(map(repr, _TEMPLATES))}, others have to be written out"
                )
            given = _TEMPLATES[given]
        return {"chat_template": given}
