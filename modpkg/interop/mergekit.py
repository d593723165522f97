"""Recipes of mergekit (YAML) converted to module projects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modpkg.compose.recipe_settings import check_settings
from modpkg.core.bounds import RECIPE_BYTES, RECIPE_DEPTH, RECIPE_VALUES
from modpkg.core.errors import ConversionError, ModpkgError
from modpkg.core.extras import require_extra
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import make_folder, write_atomically
from modpkg.core.regular_file import read_text
from modpkg.interop.bounded_yaml import MalformedYaml, read_yaml
from modpkg.interop.hub_licenses import UNKNOWN_LICENSE
from modpkg.interop.mergekit_experts import EXPERTS, MixtureRecipe
from modpkg.interop.mergekit_recipe import PARTS, Recipe
from modpkg.interop.mergekit_settings import WrongValue, value_outside_layers
from modpkg.interop.mergekit_towers import TowerRecipe
from modpkg.interop.mergekit_vocabulary import vocabulary_of
from modpkg.interop.model_card import license_of, read_card
from modpkg.interop.module_project import new_project
from modpkg.manifest.read import parse_manifest

_KEYS = (
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "modules"),
)


_TEMPLATES = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}
"""Chat templates that have a name. The others of mergekit are those of single models."""


def import_mergekit(
    source: Path, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``model`` from a recipe, and return warnings: what differs.

    Raises:
        ConversionError: The recipe is malformed, or has a key without a counterpart.
        MissingExtra: PyYAML is not installed.
        InstallError: `out` cannot be written.
    """
    recipe = read_recipe(source)
    with new_project(out) as staged:
        return write_recipe(recipe, source, staged, name, version, license=license)


def read_recipe(source: Path) -> Recipe:
    """Return the recipe in a file, which is not converted yet.

    Raises:
        ConversionError: It is malformed.
        MissingExtra: PyYAML is not installed.
    """
    data = _read(source)
    return MixtureRecipe(source, data) if EXPERTS in data else MergeRecipe(source, data)


def write_recipe(
    recipe: Recipe, source: Path, staged: Path, name: str, version: str, *, license: str | None
) -> list[str]:
    """Write the projects of a recipe into a folder, and return warnings: what differs.

    Raises:
        ConversionError: It has a key without a counterpart.
    """
    spdx, warnings = license_of(read_card(source.parent), license)
    if license is None:
        spdx = UNKNOWN_LICENSE
    texts = {"": recipe.manifest(name, version, spdx)}
    texts |= {f"{PARTS}/{n}": text for n, text in recipe.part_manifests(version, spdx).items()}
    for folder, text in texts.items():
        path = staged / folder / MANIFEST
        try:
            manifest = parse_manifest(text, path)
            if manifest.compose is not None:
                check_settings(name, manifest.compose)
        except ModpkgError as error:
            raise ConversionError("M801", path=source, reason=str(error).rstrip(".")) from None
        make_folder(path.parent)
        write_atomically(path, text.encode())
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


class MergeRecipe(TowerRecipe):
    """A recipe for ``mergekit-yaml``."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        super().__init__(path, data, _KEYS)

    def _compose(self) -> dict[str, Any]:
        composed = self._towers() or self._composed_tower()
        return composed | self._vocabulary(composed["base"]) | self._template()

    def _composed_tower(self) -> dict[str, Any]:
        return self._passthrough() if self._method.name == "passthrough" else self._merge()

    # Layers of several models -------------------------------------------------------------

    def _passthrough(self) -> dict[str, Any]:
        common = self._common()
        for scope in common:
            self._check(scope)
        if self._tower.get("models"):
            entries = [self._entry(item) for item in self._list(self._tower["models"], "models")]
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
                self._assumed(path, names, before=before)
        return {"scale": scales} if scales else {}

    # Tokenizers ---------------------------------------------------------------------------

    def _vocabulary(self, base: str) -> dict[str, Any]:
        """Return the key of ``[compose]`` for the tokens that rows are merged by, if it has one."""
        named = self._data.get("base_model") is not None or any(
            each.get("base_model") is not None for each in self._tower.get("slices") or ()
        )
        try:
            found = vocabulary_of(self._data, base, named, self._model, self._ignored)
        except WrongValue as error:
            raise self._refuse(f"its tokenizer {error}") from None
        if found:
            self._note("rows without a token of the result are dropped, as mergekit does")
        return {"vocabulary": found} if found else {}

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
