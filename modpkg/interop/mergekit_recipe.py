"""What recipes of mergekit and mergekit-moe have in common: models, dtype, and the manifest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from modpkg.core.dtypes import CONFIG_DTYPES
from modpkg.core.errors import ConversionError, ModpkgError, RecordError
from modpkg.core.filenames import CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.manifest.edit import toml_value


class Recipe:
    """A recipe that is being converted; each step that changes its meaning adds to `notes`."""

    summary = ""

    def __init__(self, path: Path, data: dict[str, Any], keys: Collection[str]) -> None:
        self._path, self._data = path, data
        self._names: dict[str, str] = {}
        self._revisions: dict[str, str] = {}
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

    def manifest(self, name: str, version: str, license: str) -> str:
        """Return the text of the manifest."""
        compose = self._compose()
        dtype = self._data.get("out_dtype") or self._data.get("dtype")
        if dtype is not None:
            if isinstance(dtype, str):
                dtype = dtype.removeprefix("torch.")
            if not isinstance(dtype, str) or dtype not in CONFIG_DTYPES:
                raise self._refuse(f"its dtype is {dtype!r}; known are {', '.join(CONFIG_DTYPES)}")
            compose["dtype"] = dtype
            self.notes.append(
                "dtype is that of the result; modpkg always computes in float64 and rounds once"
            )
        self.notes.append(
            "the models are named "
            + ", ".join(f"{new!r} (for {old})" for old, new in self._names.items())
            + "; import and publish them under these names, and set their versions"
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
        if isinstance(reference, dict):
            self._ignored(reference, ("model", "lora", "override_architecture"), "a model")
            inner = reference.get("model")
            if reference.get("lora") or not isinstance(inner, str | dict):
                raise self._refuse("a model with a LoRA has to be composed first, by a [compose]")
            if reference.get("override_architecture") is not None:
                self._note("override_architecture is left out; a model is what its config says")
            if isinstance(inner, dict):
                path, revision = inner.get("path"), inner.get("revision")
                inner = f"{path}@{revision}" if isinstance(path, str) and revision else path
            reference = inner
        if not isinstance(reference, str) or not reference.strip():
            raise self._refuse(f"{reference!r} names no model")
        if "+" in reference:
            raise self._refuse(f"{reference!r} is a model with a LoRA; compose that one first")
        path, _, revision = reference.partition("@")
        return path, revision

    def _model(self, reference: Any) -> str:
        """Return the module's name for a reference to a model."""
        path, revision = self._path_of(reference)
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
