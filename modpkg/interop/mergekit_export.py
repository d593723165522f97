"""Recipes of modpkg written as mergekit's YAML: the way back of `modpkg.interop.mergekit`.

What is written is read again as `modpkg import mergekit` reads it, and has to be the same recipe:
so nothing is written that means something else to mergekit, as far as the importer knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from modpkg.compose.reducers import find_reducer
from modpkg.core.errors import ConversionError
from modpkg.core.extras import import_extra
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import write_atomically
from modpkg.core.packs import PackTensor
from modpkg.interop.mergekit import MergeRecipe
from modpkg.interop.mergekit_experts import EXPERTS, PROMPTS, MixtureRecipe
from modpkg.interop.mergekit_methods import (
    BASE_WEIGHT,
    FLATTEN,
    FROM_BASE,
    METHODS,
    ROW_WISE,
    RecipeMethod,
)
from modpkg.interop.mergekit_settings import converted
from modpkg.interop.mergekit_spelling import METHOD_KEYS, spelled
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.schema import UNION, Compose, Filtered, Layers, Setting, Step, Vocabulary

_FORM = "a recipe of mergekit"
_BESIDE = "./"
_RELATIVES = {"ram-plus": "ramplus_tl", "ties": "ties", "ties-peft": "ties"}
"""By method without a counterpart, mergekit's that is nearest to it."""


class RecipeModel(msgspec.Struct, frozen=True):
    """What a recipe is written by, of one of its modules."""

    config: Mapping[str, Any] = {}
    """Its ``config.json``."""
    tensors: Mapping[str, PackTensor] = {}
    """Its tensors, by name."""


def export_mergekit(
    name: str, recipe: Compose, out: Path, models: Mapping[str, RecipeModel] | None = None
) -> list[str]:
    """Write a recipe as mergekit's YAML, and return the names of its modules, the base first.

    Args:
        name: The model's name.
        recipe: Its recipe.
        out: The file.
        models: Its modules, as far as they are known. Of others it is assumed that they have the
            tensors of a Llama outside of their layers, as the importer does.

    Raises:
        ConversionError: mergekit cannot express the recipe, or ``out`` exists.
        MissingExtra: PyYAML is not installed.
        InstallError: ``out`` cannot be written.
    """
    if out.exists():
        raise ConversionError("M240", path=out)
    what = "Writing mergekit's recipes"
    yaml = import_extra("yaml", what=what, package="PyYAML", extra="mergekit")
    written = recipe_of_mergekit(name, recipe, models)
    text: str = yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100)
    write_atomically(out, text.encode())
    return recipe.modules()


def recipe_of_mergekit(
    name: str, recipe: Compose, models: Mapping[str, RecipeModel] | None = None
) -> dict[str, Any]:
    """Return mergekit's recipe of the same merge; its models are folders called as the modules.

    Raises:
        ConversionError: mergekit cannot express it; the reason is in the message.
    """
    writer = _RecipeWriter(name)
    normal = spelled(recipe)
    mixture = any(step.op in ("expert", "router") for step in normal.steps)
    written = writer.mixture(normal) if mixture else writer.merge(normal)
    read = _read_back(written, models or {}, writer.refusal)
    if (again := spelled(read)) != normal:
        keys = [
            key for key in structs.asdict(normal) if getattr(again, key) != getattr(normal, key)
        ]
        raise writer.refusal(f"mergekit would read another recipe (in {', '.join(keys)})")
    return written


class _RecipeWriter:
    """What writes one recipe."""

    def __init__(self, name: str) -> None:
        self._name = name

    def refusal(self, reason: str) -> ConversionError:
        return ConversionError("M805", name=self._name, form=_FORM, reason=reason)

    # Mixtures -----------------------------------------------------------------------------

    def mixture(self, recipe: Compose) -> dict[str, Any]:
        """Return the recipe of mergekit-moe."""
        *experts, router = recipe.steps
        if router.op != "router" or any(step.op != "expert" for step in experts):
            raise self.refusal("mergekit-moe has experts and one router after them, and no others")
        if "gates" not in router.parameters:
            raise self.refusal("its router is a module; mergekit-moe makes one from prompts")
        if recipe.vocabulary is not None or recipe.chat_template is not None:
            raise self.refusal("mergekit-moe takes the base's tokenizer and chat template")
        written: dict[str, Any] = {
            "base_model": _folder(recipe.base),
            "gate_mode": router.parameters["gates"],
            "experts_per_token": int(_number(router.parameters.get("experts_per_token", 2.0))),
        }
        if recipe.dtype is not None:
            written["dtype"] = recipe.dtype
        written[EXPERTS] = [self._expert(step) for step in experts]
        return written

    def _expert(self, step: Step) -> dict[str, Any]:
        written: dict[str, Any] = {"source_model": _folder(step.module)}
        for theirs, ours in PROMPTS.items():
            if ours in step.parameters:
                written[theirs] = _plain(step.parameters[ours])
        return written

    # Merges -------------------------------------------------------------------------------

    def merge(self, recipe: Compose) -> dict[str, Any]:
        """Return the recipe of mergekit-yaml."""
        self._check(recipe)
        if recipe.method not in METHOD_KEYS:
            raise self.refusal(_unknown(recipe.method))
        key = METHOD_KEYS[recipe.method]
        method = METHODS[key]
        written: dict[str, Any] = {"merge_method": key}
        if recipe.method == "passthrough":
            written |= self._passthrough(recipe, method)
        elif any(run.steps for run in recipe.layers):
            written |= self._slices(recipe, method)
        else:
            written |= self._whole(recipe, method)
        if recipe.dtype is None and method.float32:
            raise self.refusal(
                f"mergekit's {key} makes float32 of every dtype; a recipe with a 'dtype' is written"
            )
        if recipe.dtype is not None:
            # mergekit computes in dtype, and rounds to out_dtype: this is the nearest to modpkg's
            written |= {"dtype": "float32", "out_dtype": recipe.dtype}
        if recipe.vocabulary is not None:
            written |= self._vocabulary(recipe.base, recipe.vocabulary, "base_model" in written)
        if recipe.chat_template is not None:
            written["chat_template"] = recipe.chat_template
        return written

    def _check(self, recipe: Compose) -> None:
        """Refuse what no recipe of mergekit says."""
        if recipe.tokenizer is not None:
            raise self.refusal(
                f"it takes the tokenizer of {recipe.tokenizer} without its rows ('tokenizer'); "
                "mergekit moves the rows too, which is vocabulary = { source = … }"
            )
        if recipe.tie_word_embeddings is not None:
            raise self.refusal("mergekit has no 'tie_word_embeddings'")
        for step in (*recipe.steps, *(step for run in recipe.layers for step in run.steps)):
            if step.op != "dense":
                raise self.refusal(
                    f"its step with {step.module} is {step.op!r}, and mergekit merges models; "
                    "make a model of the base and that module, and merge it ('dense')"
                )
            if step.replace or "within" in step.parameters:
                raise self.refusal(f"its step with {step.module} acts on a part of the tensors")
        for run in recipe.layers:
            if run.method not in (None, recipe.method):
                raise self.refusal(
                    f"it merges layers of {run.module} by {run.method!r} and others by "
                    f"{recipe.method!r}; mergekit has one method"
                )
            if run.range is None:
                raise self.refusal(f"it takes tensors of {run.module} without layers")

    def _whole(self, recipe: Compose, method: RecipeMethod) -> dict[str, Any]:
        written, models = self._merged(recipe.base, recipe.parameters, recipe.steps, method)
        named = method.needs_base or recipe.parameters.get(FROM_BASE, True) is True
        if recipe.method in ("linear", "karcher"):
            named = recipe.vocabulary is not None and recipe.vocabulary.missing == "base"
        head = {"base_model": _folder(recipe.base)} if named else {}
        if not recipe.layers:
            return {**head, "models": models, **written}
        if len(recipe.layers) > 1:
            raise self.refusal("its layers are of several modules, and its steps are not of a run")
        extent = _range(recipe.layers[0])
        if models[0]["model"] != _folder(recipe.base):
            models.insert(0, {"model": _folder(recipe.base)})
        sources = [{**model, "layer_range": extent} for model in models]
        return {**head, "slices": [{"sources": sources}], **written}

    def _merged(
        self,
        base: str,
        parameters: Mapping[str, Setting],
        steps: Sequence[Step],
        method: RecipeMethod,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the key for the method's parameters, and the models, the base if it has to be."""
        written: dict[str, Any] = {}
        names = {ours: theirs for theirs, ours in method.shared.items()}
        for key, value in parameters.items():
            if key in names:
                written[names[key]] = self._value(method, key, value)
            elif key == "vectors" and method.name == "nuslerp":
                written |= {FLATTEN: False, ROW_WISE: value == "columns"}
            elif key not in (BASE_WEIGHT, FROM_BASE, "with_base"):
                raise self._without_key(method, key)
        models = []
        if BASE_WEIGHT in parameters:
            weight = self._value(method, BASE_WEIGHT, parameters[BASE_WEIGHT])
            models.append({"model": _folder(base), "parameters": {"weight": weight}})
        elif method.name == "karcher" or not method.needs_base:
            models.append({"model": _folder(base)})
        models += [self._model(step, method) for step in steps]
        return ({"parameters": written} if written else {}), models

    def _model(self, step: Step, method: RecipeMethod) -> dict[str, Any]:
        own: dict[str, Any] = {}
        if method.weighted:
            own["weight"] = _plain(step.scale)
        names = {ours: theirs for theirs, ours in method.each.items()}
        for key, value in step.parameters.items():
            if key not in names:
                raise self._without_key(method, key, f" of the model {step.module}")
            own[names[key]] = self._value(method, key, value)
        return {"model": _folder(step.module), **({"parameters": own} if own else {})}

    def _without_key(self, method: RecipeMethod, key: str, whose: str = "") -> ConversionError:
        return self.refusal(f"mergekit's {METHOD_KEYS[method.name]} has no {key!r}{whose}")

    def _value(self, method: RecipeMethod, key: str, value: Setting) -> Any:
        """Return a parameter as mergekit reads it: its whole numbers are whole."""
        plain = _plain(value)
        kind = find_reducer(method.name, self._name).parameters[key].type
        return converted(plain, int) if kind is int and isinstance(plain, float) else plain

    # Layers -------------------------------------------------------------------------------

    def _slices(self, recipe: Compose, method: RecipeMethod) -> dict[str, Any]:
        slices = []
        for run in recipe.layers:
            parameters, models = self._merged(run.module, run.parameters, run.steps, method)
            if not models or models[0]["model"] != _folder(run.module):
                models.insert(0, {"model": _folder(run.module)})
            ranges = {
                _folder(step.module): step.range for step in run.steps if step.range is not None
            }
            for model in models:
                model["layer_range"] = [*ranges.get(model["model"], _range(run))]
            piece: dict[str, Any] = {"sources": models, **parameters}
            if run.module != recipe.base and run.steps:
                piece["base_model"] = _folder(run.module)
            if not run.steps:
                self._check_alone(run, method, piece)
            slices.append(piece)
        return {
            "base_model": _folder(recipe.base),
            "slices": slices,
            **self._common(recipe, method),
        }

    def _check_alone(self, run: Layers, method: RecipeMethod, piece: dict[str, Any]) -> None:
        """Write the weight that a model alone in a slice has to have, too."""
        if run.scale is not None:
            raise self.refusal(f"it multiplies layers of {run.module}; mergekit's passthrough does")
        if method.name == "linear":
            piece["sources"][0]["parameters"] = {"weight": 1.0}

    def _common(self, recipe: Compose, method: RecipeMethod) -> dict[str, Any]:
        written, _ = self._merged(recipe.base, recipe.parameters, (), method)
        return written

    def _passthrough(self, recipe: Compose, method: RecipeMethod) -> dict[str, Any]:
        if recipe.steps:
            raise self.refusal("passthrough merges nothing")
        if not recipe.layers:
            scale = recipe.parameters.get("scale")
            return {"models": [self._scaled(recipe.base, scale)]}
        sources = [
            {**self._scaled(run.module, run.scale), "layer_range": _range(run)}
            for run in recipe.layers
        ]
        slices = [{"sources": [source]} for source in sources]
        return {"base_model": _folder(recipe.base), "slices": slices}

    def _scaled(self, module: str, scale: Setting | None) -> dict[str, Any]:
        own = {} if scale is None else {"parameters": {"scale": _plain(scale)}}
        return {"model": _folder(module), **own}

    # Tokenizers ---------------------------------------------------------------------------

    def _vocabulary(self, base: str, vocabulary: Vocabulary, named: bool) -> dict[str, Any]:
        source = vocabulary.source if vocabulary.source == UNION else _folder(vocabulary.source)
        if vocabulary.source == base and named:
            source = "base"
        if not vocabulary.tokens and vocabulary.pad_to_multiple_of is None:
            return {"tokenizer_source": source}
        section: dict[str, Any] = {"source": source}
        tokens: dict[str, Any] = {}
        for row in vocabulary.tokens:
            of: Any = {"kind": "zero"} if row.module is None else _folder(row.module)
            if row.of is not None:
                of = {"kind": "model_token", "model": of, "token": row.of}
            elif row.number is not None:
                of = {"kind": "model_token", "model": of, "token_id": row.number}
            tokens[row.token] = {"source": of, **({"force": True} if row.force else {})}
        if tokens:
            section["tokens"] = tokens
        if vocabulary.pad_to_multiple_of is not None:
            section["pad_to_multiple_of"] = vocabulary.pad_to_multiple_of
        return {"tokenizer": section}


def _folder(module: str) -> str:
    """Return a module as the folder beside the recipe, which no tool takes for a hub's model."""
    return f"{_BESIDE}{module}"


def _range(run: Layers) -> list[int]:
    return list(run.range or ())


def _number(value: Setting) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _plain(value: Setting) -> Any:
    """Return a setting as YAML has it: a value, a gradient, or values by filter."""
    if not isinstance(value, tuple):
        return value
    return [_filtered(item) if isinstance(item, Filtered) else item for item in value]


def _filtered(item: Filtered) -> dict[str, Any]:
    value = list(item.value) if isinstance(item.value, tuple) else item.value
    return {**({} if item.filter is None else {"filter": item.filter}), "value": value}


def _unknown(method: str) -> str:
    """Return why a method that mergekit does not have is refused."""
    if (relative := _RELATIVES.get(method)) is not None:
        ours = METHODS[relative].name
        return f"mergekit has no {method!r}; its relative there is {relative}, {ours!r} here"
    return f"mergekit has no {method!r}; it has {', '.join(sorted(METHODS))}"


# Reading it back --------------------------------------------------------------------------


class _GivenModels:
    """The models of a recipe, in place of folders beside it."""

    models: Mapping[str, RecipeModel] = {}

    def _config(self, path: str) -> dict[str, Any]:
        return dict(self.models.get(path.removeprefix(_BESIDE), RecipeModel()).config)

    def _tensors(self, path: str) -> dict[str, PackTensor]:
        return dict(self.models.get(path.removeprefix(_BESIDE), RecipeModel()).tensors)


class _MergeAgain(_GivenModels, MergeRecipe):
    pass


class _MixtureAgain(_GivenModels, MixtureRecipe):
    pass


def _read_back(
    written: dict[str, Any],
    models: Mapping[str, RecipeModel],
    refusal: Callable[[str], ConversionError],
) -> Compose:
    """Return the recipe that the importer makes of what was written."""
    kind = _MixtureAgain if EXPERTS in written else _MergeAgain
    try:
        recipe = kind(Path("recipe.yml"), written)
        recipe.models = models
        manifest = parse_manifest(recipe.manifest("recipe", "1.0", "MIT"), Path(MANIFEST))
    except ConversionError as error:
        raise refusal(str(error.values.get("reason", error))) from None
    if manifest.compose is None:
        raise AssertionError("a recipe has a [compose]")
    return manifest.compose
