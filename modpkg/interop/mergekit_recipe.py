"""What recipes of mergekit and mergekit-moe have in common: models, dtype, and the manifest."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from modpkg.core.dtypes import CONFIG_DTYPES
from modpkg.core.errors import ConversionError, ModpkgError, RecordError
from modpkg.core.filenames import CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.manifest.edit import toml_value

PARTS = "parts"
"""Folder of the models with a LoRA, in the project that needs them."""


class Recipe:
    """A recipe that is being converted; each step that changes its meaning adds to `notes`."""

    summary = ""

    def __init__(self, path: Path, data: dict[str, Any], keys: Collection[str]) -> None:
        self._path, self._data = path, data
        self._names: dict[str, str] = {}
        self._used: dict[str, None] = {}
        self.parts: dict[tuple[str, str], str] = {}
        """By model and LoRA, the name of the module that is both."""
        self._revisions: dict[str, str] = {}
        self._pins: Mapping[str, str] = {}
        self.notes: list[str] = []
        self._ignored(data, keys, "the recipe")

    def _compose(self) -> dict[str, Any]:
        """Return the contents of ``[compose]``."""
        raise NotImplementedError

    def _refuse(self, reason: str) -> ConversionError:
        return ConversionError("M801", path=self._path, reason=reason)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _ignored(self, table: Mapping[str, Any], known: Collection[str], what: str) -> None:
        """Note the keys that mergekit does not read, which are not read here either."""
        for key in table:
            if key not in known:
                self._note(f"{key[:100]!r} of {what} is ignored, as mergekit ignores it")

    def _table(self, value: Any, what: str) -> dict[str, Any]:
        """Return a mapping of the recipe; an empty one for nothing."""
        if value is not None and not isinstance(value, dict):
            raise self._refuse(f"{what} is {value!r}, which is no mapping")
        return value or {}

    def _list(self, value: Any, what: str) -> list[Any]:
        """Return a list of the recipe; an empty one for nothing."""
        if value is not None and not isinstance(value, list):
            raise self._refuse(f"{what} is {value!r}, which is no list")
        return value or []

    @property
    def names(self) -> Mapping[str, str]:
        """The modules' names, by path; after `manifest` those of the whole recipe."""
        return self._names

    def named(self, names: Mapping[str, str], pins: Mapping[str, str]) -> None:
        """Set the names of its models by path, and the versions that its modules have, by name."""
        self._names.update(names)
        self._pins = pins

    def revision(self, path: str) -> str | None:
        """Return the revision that the recipe names of a model, if it does."""
        return self._revisions.get(path)

    def _dependency(self, module: str) -> str:
        """Return the entry of a module under ``[dependencies]``."""
        version = self._pins.get(module)
        return f"{module} = {toml_value('*' if version is None else f'=={version}')}"

    def manifest(self, name: str, version: str, license: str) -> str:
        """Return the text of the manifest."""
        compose = self._compose()
        dtype = self._data.get("out_dtype") or self._data.get("dtype")
        if dtype is None and (found := self._result_dtype()) is not None:
            compose["dtype"], why = found
            self._note(why)
        if dtype is not None:
            if isinstance(dtype, str):
                dtype = dtype.removeprefix("torch.")
            if not isinstance(dtype, str) or dtype not in CONFIG_DTYPES:
                raise self._refuse(f"its dtype is {dtype!r}; known are {', '.join(CONFIG_DTYPES)}")
            compose["dtype"] = dtype
            self.notes.append(
                "dtype is that of the result; modpkg always computes in float64 and rounds once"
            )
        if self._pins:
            self._pins = {**self._pins, **dict.fromkeys(self.parts.values(), version)}
        named = ", ".join(f"{new!r} (for {old})" for old, new in self._names.items())
        then = "; import and publish them under these names, and set their versions"
        self.notes.append(f"the models are named {named}{'' if self._pins else then}")
        lines = ["[module]"]
        for key, value in (
            ("name", name), ("version", version), ("kind", "model"), ("license", license),
            ("summary", self.summary),
        ):  # fmt: skip
            lines.append(f"{key} = {toml_value(value)}")
        lines += ["", "[dependencies]", *map(self._dependency, self._used)]
        lines += ["", "[compose]"]
        for key, value in compose.items():
            if key in ("steps", "layers") and value:
                items = ",\n".join(f"  {toml_value(item)}" for item in value)
                lines.append(f"{key} = [\n{items},\n]")
            elif value not in ({}, [], None):
                lines.append(f"{key} = {toml_value(value)}")
        if self.parts or self._pins:
            # Even where the registry has all parts: whether it does is nothing of the release's.
            lines += ["", "[files]", f"exclude = [{toml_value(f'{PARTS}/*')}]"]
        return "\n".join(lines) + "\n"

    def part_manifests(self, version: str, license: str) -> dict[str, str]:
        """Return the texts of the manifests of models with a LoRA, by name."""
        texts = {}
        for (model, lora), name in self.parts.items():
            step = {"op": "lora", "module": lora}
            texts[name] = "\n".join(
                [
                    "[module]",
                    f"name = {toml_value(name)}",
                    f"version = {toml_value(version)}",
                    'kind = "model"',
                    f"license = {toml_value(license)}",
                    f"summary = {toml_value(f'{model} with {lora}')}",
                    "",
                    "[dependencies]",
                    self._dependency(model),
                    self._dependency(lora),
                    "",
                    "[compose]",
                    f"base = {toml_value(model)}",
                    f"steps = [{toml_value(step)}]",
                    "",
                ]
            )
        return texts

    def _result_dtype(self) -> tuple[str, str] | None:
        """Return the dtype of a result whose recipe names none, and why; None for the base's."""
        return None

    def _folder(self, path: str) -> Path:
        """Return where a model is, if it is a folder here."""
        return self._path.parent / path

    def _config(self, path: str) -> dict[str, Any]:
        """Return the ``config.json`` of a model that is a folder here; else an empty one."""
        file = self._folder(path) / CONFIG
        if not file.is_file():
            return {}
        try:
            return read_json(file)
        except (OSError, RecordError):
            return {}

    def _path_of(self, reference: Any) -> tuple[str, str]:
        """Return a model's path, and its revision or nothing, for a reference to it."""
        path, _, revision = self._reference(reference)[0].partition("@")
        return path, revision

    def _reference(self, reference: Any) -> tuple[str, str]:
        """Return a reference's model and LoRA, or nothing: each a path or ``PATH@REVISION``."""
        lora: Any = None
        if isinstance(reference, dict):
            self._ignored(reference, ("model", "lora", "override_architecture"), "a model")
            if reference.get("override_architecture") is not None:
                self._note("override_architecture is left out; a model is what its config says")
            lora = reference.get("lora")
            reference = self._pinned(reference.get("model"))
        elif isinstance(reference, str):
            reference, _, lora = reference.partition("+")
        if lora:
            return self._text(reference), self._text(self._pinned(lora))
        return self._text(reference), ""

    def _pinned(self, place: Any) -> Any:
        """Return a path with its revision as one text, where a mapping has them."""
        if not isinstance(place, dict):
            return place
        path, revision = place.get("path"), place.get("revision")
        return f"{path}@{revision}" if isinstance(path, str) and revision else path

    def _text(self, place: Any) -> str:
        if not isinstance(place, str) or not place.strip() or "+" in place:
            raise self._refuse(f"{place!r} names no model")
        return place

    def _model(self, reference: Any) -> str:
        """Return the module's name for a reference to a model, which may have a LoRA."""
        model, lora = self._reference(reference)
        name = self._module(model)
        if lora:
            name = self._with_lora(name, self._module(lora))
        self._used[name] = None
        return name

    def _with_lora(self, model: str, lora: str) -> str:
        """Return the name of the module that is a model with a LoRA."""
        for (base, adapter), name in self.parts.items():
            if (base, adapter) == (model, lora):
                return name
        taken = {*self._names.values(), *self.parts.values()}
        name = next(
            text
            for number in itertools.count(1)
            if (text := f"{model}-{lora}" + f"-{number}" * (number > 1)) not in taken
        )
        self.parts[model, lora] = name
        self._note(
            f"{name!r} is {model!r} with the adapter {lora!r}, a module of its own in "
            f"{PARTS}/{name}{'' if self._pins else ': build and publish it before this one'}"
        )
        return name

    def _module(self, place: str) -> str:
        """Return the module's name for a path, or ``PATH@REVISION``."""
        path, _, revision = place.partition("@")
        if revision and self._revisions.setdefault(path, revision) != revision:
            raise self._refuse(
                f"it has two revisions of {path}; import them as two modules, and name a copy of "
                "it in the recipe"
            )
        if revision:
            self._note(
                f"{path} is pinned to revision {revision}; set the version of that dependency"
            )
        if path not in self._names:
            parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
            for count in range(1, len(parts) + 1):
                try:
                    chosen = str(module_name("-".join(parts[-count:])))
                except ModpkgError as error:
                    raise self._refuse(f"{path!r} cannot be a module's name ({error})") from None
                if chosen not in self._names.values():
                    self._names[path] = chosen
                    break
            else:
                raise self._refuse(f"{path!r} names no model")
        return self._names[path]
