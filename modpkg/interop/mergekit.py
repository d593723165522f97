"""Recipes of mergekit (its YAML) as module projects: what they say, in a manifest's words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.errors import ConversionError, MissingExtra, ModpkgError, PackError
from modpkg.core.filenames import MANIFEST
from modpkg.core.names import module_name
from modpkg.core.packs import read_pack_header
from modpkg.interop.module_project import UNKNOWN_LICENSE, license_of, new_project
from modpkg.manifest.edit import toml_value
from modpkg.manifest.read import parse_manifest

DTYPES = ("float32", "float16", "bfloat16")
_LARGEST = 1 << 20
_KEYS = (
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "modules", "name"),
)


class Method(Struct, frozen=True, kw_only=True):
    """A method of mergekit in modpkg's words."""

    name: str
    shared: dict[str, str] = {}
    """Its parameters, by mergekit's name of them."""
    each: dict[str, str] = {}
    """Likewise those of each model, beside the weight."""
    weighted: bool = True
    needs_base: bool = True
    without_base: dict[str, Any] = {}
    """What to say where the recipe has no base_model."""
    notes: tuple[str, ...] = ()


_TASK = {"normalize": "normalize", "lambda": "lambda"}
_SPARSE = {**_TASK, "rescale": "rescale"}
_DENSITY = {"density": "density"}
_RANDOM = (
    "its random numbers are modpkg's own (by seed, tensor and source), and what is kept is "
    "divided by its chance to be, as the paper has it; mergekit 0.1.5 brings it to the sum of "
    "magnitudes instead",
)
_FROM_MODELS = {"from_base": False}

METHODS = {
    "linear": Method(name="linear", shared={"normalize": "normalize"}, needs_base=False),
    "task_arithmetic": Method(name="task-arithmetic", shared=_TASK),
    "slerp": Method(name="slerp", shared={"t": "t"}, weighted=False),
    "nuslerp": Method(name="nuslerp", needs_base=False, without_base=_FROM_MODELS),
    "multislerp": Method(
        name="multislerp",
        shared={"normalize_weights": "normalize_weights", "eps": "eps"},
        needs_base=False,
        without_base=_FROM_MODELS,
    ),
    "karcher": Method(
        name="karcher",
        shared={"max_iter": "max_iter", "tol": "tol"},
        weighted=False,
        needs_base=False,
    ),
    "model_stock": Method(
        name="model-stock", shared={"filter_wise": "filter_wise"}, weighted=False
    ),
    "ties": Method(name="ties-mergekit", shared=_SPARSE, each=_DENSITY),
    "dare_linear": Method(name="dare-linear", shared=_SPARSE, each=_DENSITY, notes=_RANDOM),
    "dare_ties": Method(name="dare-ties", shared=_SPARSE, each=_DENSITY, notes=_RANDOM),
    "della": Method(
        name="della", shared=_SPARSE, each={**_DENSITY, "epsilon": "epsilon"}, notes=_RANDOM
    ),
    "della_linear": Method(
        name="della-linear", shared=_SPARSE, each={**_DENSITY, "epsilon": "epsilon"}, notes=_RANDOM
    ),
    "breadcrumbs": Method(name="breadcrumbs", shared=_SPARSE, each={**_DENSITY, "gamma": "gamma"}),
    "breadcrumbs_ties": Method(
        name="breadcrumbs-ties", shared=_SPARSE, each={**_DENSITY, "gamma": "gamma"}
    ),
    "passthrough": Method(name="passthrough", needs_base=False, each={"scale": "scale"}),
}
"""mergekit's methods that modpkg has; docs/merging.md says where they differ."""


def import_mergekit(
    source: Path, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``model`` from a recipe, and return what is not as it was, in words.

    Raises:
        ConversionError: the recipe is none, or says what a manifest cannot; names the key.
        MissingExtra: PyYAML is not installed. ConversionError, InstallError.
    """
    from modpkg.interop.mergekit_experts import EXPERTS, MixtureRecipe

    data = _read(source)
    recipe = MixtureRecipe(source, data) if EXPERTS in data else MergeRecipe(source, data)
    spdx, warnings = license_of(source.parent, license)
    if license is None:
        spdx = UNKNOWN_LICENSE
    text = recipe.manifest(name, version, spdx)
    with new_project(out) as staged:
        try:
            parse_manifest(text, staged / MANIFEST)
        except ModpkgError as error:
            raise ConversionError("M801", path=source, reason=str(error).rstrip(".")) from None
        (staged / MANIFEST).write_text(text)
    return warnings + recipe.notes


def _read(source: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise MissingExtra(
            "M703", what="Reading mergekit's recipes", package="PyYAML", extra="mergekit"
        ) from None
    try:
        if source.stat().st_size > _LARGEST:
            raise ConversionError("M801", path=source, reason="it is larger than 1 MiB")
        data = yaml.safe_load(source.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise ConversionError("M801", path=source, reason=f"it is no YAML ({first})") from None
    if not isinstance(data, dict):
        raise ConversionError("M801", path=source, reason="it is no recipe: no table of keys")
    return data


class Recipe:
    """A recipe that is being read; ``notes`` grows as it is."""

    summary = ""

    def __init__(self, path: Path, data: dict[str, Any], keys: Collection[str]) -> None:
        self._path, self._data = path, data
        self._names: dict[str, str] = {}
        self.notes: list[str] = []
        for key in data:
            if key not in keys:
                raise self._refuse(f"its key {key!r} is not known")

    def _compose(self) -> dict[str, Any]:
        """Return what stands under ``[compose]``."""
        raise NotImplementedError

    def _refuse(self, reason: str) -> ConversionError:
        return ConversionError("M801", path=self._path, reason=reason)

    def manifest(self, name: str, version: str, license: str) -> str:
        """Return the text of the manifest."""
        compose = self._compose()
        dtype = self._data.get("out_dtype") or self._data.get("dtype")
        if dtype is not None:
            if dtype not in DTYPES:
                raise self._refuse(f"its dtype is {dtype!r}; known are {', '.join(DTYPES)}")
            compose["dtype"] = dtype
            self.notes.append(
                "dtype says what the result is; modpkg computes in float64 and rounds once, "
                "whatever it says"
            )
        self.notes.append(
            "the models are named "
            + ", ".join(f"{new!r} (for {old})" for old, new in self._names.items())
            + "; import and publish them under these names, and say which versions"
        )
        lines = ["[module]"]
        for key, value in (
            ("name", name), ("version", version), ("kind", "model"), ("license", license),
            ("summary", self.summary),
        ):  # fmt: skip
            lines.append(f"{key} = {toml_value(value)}")
        lines += ["", "[dependencies]", *(f'{module} = "*"' for module in self._names.values())]
        lines += ["", "[compose]"]
        for key, value in compose.items():
            if key in ("steps", "layers"):
                items = ",\n".join(f"  {toml_value(item)}" for item in value)
                lines.append(f"{key} = [\n{items},\n]")
            elif value not in ({}, None):
                lines.append(f"{key} = {toml_value(value)}")
        return "\n".join(lines) + "\n"

    def _model(self, reference: Any) -> str:
        """Return the module's name for a reference to a model."""
        if isinstance(reference, dict):
            inner = reference.get("model")
            if reference.get("lora") or not isinstance(inner, str | dict):
                raise self._refuse("a model with a LoRA is to be merged first, by a [compose]")
            reference = inner.get("path") if isinstance(inner, dict) else inner
        if not isinstance(reference, str) or not reference.strip():
            raise self._refuse(f"{reference!r} names no model")
        if "+" in reference:
            raise self._refuse(f"{reference!r} is a model with a LoRA; compose that one first")
        path, _, revision = reference.partition("@")
        if revision:
            note = f"{path} is asked for at revision {revision}; give the dependency that version"
            if note not in self.notes:
                self.notes.append(note)
        if path not in self._names:
            parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
            for count in range(1, len(parts) + 1):
                try:
                    chosen = str(module_name("-".join(parts[-count:])))
                except ModpkgError as error:
                    raise self._refuse(
                        f"{reference!r} cannot be a module's name ({error})"
                    ) from None
                if chosen not in self._names.values():
                    self._names[path] = chosen
                    break
            else:
                raise self._refuse(f"{reference!r} names no model")
        return self._names[path]


class MergeRecipe(Recipe):
    """A recipe of a merge."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        super().__init__(path, data, _KEYS)
        if data.get("modules"):
            raise self._refuse("'modules' (several towers of one model) has no form here")
        written = data.get("merge_method")
        if written not in METHODS:
            raise self._refuse(f"its merge_method is {written!r}; known are {', '.join(METHODS)}")
        self._method = METHODS[written]
        self.summary = f"{written} merge"
        self.notes += [f"{written}: {note}" for note in self._method.notes]

    def _compose(self) -> dict[str, Any]:
        self._tokenizer()
        return self._passthrough() if self._method.name == "passthrough" else self._merge()

    # Models -------------------------------------------------------------------------------

    def _sources(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the models that are merged, and the parameters of their slice."""
        if isinstance(models := self._data.get("models"), list) and not self._data.get("slices"):
            return [self._entry(item) for item in models], {}
        slices = self._data.get("slices")
        if not isinstance(slices, list) or len(slices) != 1:
            raise self._refuse(
                "it merges several slices; modpkg merges whole models, and takes slices with "
                "passthrough"
            )
        sources = [self._entry(item) for item in slices[0].get("sources") or []]
        ranges = {tuple(item.get("layer_range") or ()) for item in sources}
        if len(ranges) != 1 or len(only := ranges.pop()) != 2 or only[0] != 0:
            raise self._refuse("it merges other layers than all of them, which has no form here")
        self.notes.append(f"the slice of layers 0 to {only[1]} is taken to be all layers")
        return sources, slices[0].get("parameters") or {}

    def _entry(self, item: Any) -> dict[str, Any]:
        if not isinstance(item, dict) or "model" not in item:
            raise self._refuse("an entry of its models has no 'model'")
        return item

    # Methods ------------------------------------------------------------------------------

    def _merge(self) -> dict[str, Any]:
        method, common = self._method, self._data.get("parameters") or {}
        entries, sliced = self._sources()
        names = [self._model(entry["model"]) for entry in entries]
        if len(set(names)) != len(names):
            raise self._refuse("it names a model twice")
        written = self._data.get("base_model")
        if written is None and method.needs_base:
            raise self._refuse(f"{self._data['merge_method']} needs a base_model")
        base = self._model(written) if written is not None else names[0]
        parameters = self._parameters(method.shared, [sliced, common])
        if written is None:
            parameters.update(method.without_base)
        counts = method.name == "linear" or (written is None and method.weighted)
        scopes = {
            name: [entry.get("parameters") or {}, sliced, common]
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

    def _weight(self, scopes: Sequence[Mapping[str, Any]]) -> Any:
        found = _layered([scope["weight"] for scope in scopes if "weight" in scope])
        if found is None:
            raise self._refuse("a model has no weight")
        return found

    def _parameters(
        self, names: Mapping[str, str], scopes: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        found = {}
        for theirs, ours in names.items():
            value = _layered([scope[theirs] for scope in scopes if theirs in scope])
            if value is not None:
                found[ours] = value
        return found

    def _check(self, entries: Sequence[dict[str, Any]], *scopes: Mapping[str, Any]) -> None:
        """Refuse parameters that would be dropped without a word."""
        known = {*self._method.shared, *self._method.each} | (
            {"weight"} if self._method.weighted else set()
        )
        for scope in (*(entry.get("parameters") or {} for entry in entries), *scopes):
            for key, value in scope.items():
                if key in known:
                    continue
                if key == "weight":
                    self.notes.append(f"{self._data['merge_method']} has no use for a weight")
                elif key == "int8_mask":
                    self.notes.append(
                        "int8_mask saves memory in mergekit and changes no value; it is left out"
                    )
                elif (key, value) not in (("nuslerp_flatten", True), ("nuslerp_row_wise", False)):
                    raise self._refuse(
                        f"{self._data['merge_method']} with {key} = {value!r} has no form here"
                    )

    def _passthrough(self) -> dict[str, Any]:
        common = self._data.get("parameters") or {}
        parameters = self._parameters({"scale": "scale"}, [common])
        slices = self._data.get("slices")
        if not slices:
            entries, _ = self._sources()
            if len(entries) != 1:
                raise self._refuse("passthrough takes one model, or slices")
            own = self._parameters({"scale": "scale"}, [entries[0].get("parameters") or {}, common])
            self._check(entries, common)
            base = self._model(entries[0]["model"])
            return {"base": base, "method": "passthrough", "parameters": own}
        runs = []
        for piece in slices:
            sources = [self._entry(item) for item in piece.get("sources") or []]
            if len(sources) != 1 or len(sources[0].get("layer_range") or ()) != 2:
                raise self._refuse("a slice of passthrough has one source with a layer_range")
            scopes = [sources[0].get("parameters") or {}, piece.get("parameters") or {}]
            self._check(sources, scopes[1], common)
            run: dict[str, Any] = {
                "module": self._model(sources[0]["model"]),
                "range": list(sources[0]["layer_range"]),
            }
            if scale := self._parameters({"scale": "scale"}, [*scopes, common]):
                run["scale"] = scale["scale"]
            runs.append(run)
        first, last = runs[0], runs[-1]
        if self._data.get("base_model") is not None:
            self._model(self._data["base_model"])
            self.notes.append("passthrough has no use for base_model but for its config")
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
        from modpkg.adapters.layers import layer_path

        folder = self._path.parent / path if not Path(path).is_absolute() else Path(path)
        names: set[str] = set()
        try:
            for pack in sorted(folder.glob("*.safetensors")):
                names.update(read_pack_header(pack))
        except (OSError, PackError):
            names = set()
        found = sorted(
            name for name in names if layer_path(name) is None and "embed" not in name.lower()
        )
        if not found:
            found = ["model.norm.weight", "lm_head.weight"]
            self.notes.append(
                f"what follows the last layer comes from {path}, which is not here to be looked "
                f"at: {' and '.join(found)} are named; see whether it has these"
            )
        return found

    # Tokenizers ---------------------------------------------------------------------------

    def _tokenizer(self) -> None:
        source = self._data.get("tokenizer_source")
        section = self._data.get("tokenizer")
        if isinstance(section, dict):
            if set(section) - {"source"}:
                raise self._refuse("'tokenizer' with tokens of its own has no form here")
            source = section.get("source")
        if source == "base":
            self.notes.append(
                "tokenizer_source: the base's tokenizer is taken, and rows of embeddings are "
                "merged by number; models whose vocabulary differs are refused"
            )
        elif source is not None:
            raise self._refuse(
                f"its tokenizer_source is {source!r}, and modpkg does not move rows of embeddings "
                "from one vocabulary to another; only 'base' is known"
            )
        if self._data.get("chat_template") is not None:
            self.notes.append(
                "chat_template is left out; the base's own comes with its tokenizer's files"
            )


def _layered(settings: Sequence[Any]) -> Any:
    """Return one setting for several, the first of which goes before the next."""
    found: list[Any] = []
    for setting in settings:
        items = [setting] if isinstance(setting, dict) else setting
        if not (isinstance(items, list) and any(isinstance(item, dict) for item in items)):
            value = _numbers(setting)
            return [*found, {"value": value}] if found else value
        for item in items:
            value = _numbers(item.get("value"))
            if item.get("filter") in (None, "*"):
                return [*found, {"value": value}] if found else value
            found.append({"filter": item["filter"], "value": value})
    return found or None


def _numbers(value: Any) -> Any:
    """Return numbers for the texts that YAML 1.1 makes of ones like 1e-5."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
