"""mergekit's merge methods, and how a recipe's parameters become those of modpkg's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.compose.reducers import REQUIRED, find_reducer
from modpkg.interop.mergekit_settings import WrongValue, keys_of_filters, of_scopes, setting_of
from modpkg.interop.mergekit_slices import SlicedRecipe


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
    float32: bool = False
    """Whether mergekit's result is float32, whatever the dtype of its models."""
    notes: tuple[str, ...] = ()

    @property
    def reads_base(self) -> bool:
        """Whether it is another merge with a base_model than without one."""
        return self.needs_base or bool(self.without_base)


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
        float32=True,
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
        float32=True,
    ),
    "passthrough": RecipeMethod(name="passthrough", needs_base=False, each={"scale": "scale"}),
}
"""mergekit's methods; docs/merging.md lists the differences."""


BASE_WEIGHT, FROM_BASE = "base_weight", "from_base"
FLATTEN, ROW_WISE = "nuslerp_flatten", "nuslerp_row_wise"


class MethodRecipe(SlicedRecipe):
    """A recipe with a merge method and its parameters."""

    def __init__(self, path: Path, data: dict[str, Any], keys: Collection[str]) -> None:
        super().__init__(path, data, keys)
        written = data.get("merge_method")
        if not isinstance(written, str) or written not in METHODS:
            raise self._refuse(f"its merge_method is {written!r}; known are {', '.join(METHODS)}")
        self._written, self._method = written, METHODS[written]
        reducer = find_reducer(self._method.name, "mergekit")
        self._kinds = {name: one.type for name, one in reducer.parameters.items()}
        self._required = {n for n, default in reducer.defaults.items() if default is REQUIRED}
        self.summary = f"{written} merge"
        self.notes += [f"{written}: {note}" for note in self._method.notes]

    def _result_dtype(self) -> tuple[str, str] | None:
        if self._method.float32:
            return "float32", f"the result is float32, as that of mergekit's {self._written}"
        return super()._result_dtype()

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
        found = {FLATTEN: True, ROW_WISE: False}
        for key in found:
            value = self._setting(scopes, key, bool)
            if value is not None:
                found[key] = value
            if not isinstance(found[key], bool):
                raise self._refuse(f"{key} is {value!r}; only true or false is supported")
        if not found[FLATTEN]:
            return {"vectors": "columns" if found[ROW_WISE] else "rows"}
        if found[ROW_WISE]:
            self._note(f"{ROW_WISE} has no effect beside {FLATTEN}")
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
            elif self._written != "nuslerp" or key not in (FLATTEN, ROW_WISE) or of_model:
                self._note(
                    f"{key[:100]} is left out: {self._written} of mergekit 0.1.5 has no such "
                    "parameter"
                )
