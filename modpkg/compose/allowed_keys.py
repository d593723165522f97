"""What of a config reaches transformers: an allow-list for each kind of config.

A key that the config's class declares is passed on. Transformers sets every other one as an
attribute of the config object, whatever its name: a method, a table of the class, or what only
transformers itself sets. So of those that a class does not declare, only what is plain passes:
models read some without declaring them. What names code, kernels and dtypes is judged before, at
any depth (`modpkg.compose.named_code`).
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from modpkg.compose.named_code import check_no_code, is_address, without_choices
from modpkg.core.errors import RunError
from modpkg.core.filenames import CONFIG, GENERATION_CONFIG

_NAMES = ("_name_or_path", "name_or_path")
"""Where a model was trained; some parts of transformers look there for more files."""
_INERT = re.compile(r"keys_to_ignore_at_inference|is_composition|base_model_\w+_plan")
"""Tables of a config's class that older files repeat; they are for training and many devices."""
_FASTER = ("compile_config", "continuous_batching_config", "use_mtp")
"""Settings of generation that change its speed alone: with a compiler, or files that are not
loaded."""
_QUANTISER_INPUTS = ("tokenizer", "dataset", "model_name_or_path", "model_file_base_name", "meta")
"""What a quantisation config says of how it was made."""
_PATTERN = "re:"
"""How compressed-tensors begins a name of modules that is a pattern."""
_FLOAT = "__float__"
"""The key under which transformers writes an infinite number."""
_NOTHING = object()


def allowed_config(
    name: str, kind: type, raw: Mapping[str, Any], file: str = CONFIG
) -> dict[str, Any]:
    """Return what reaches a config class of the keys of a ``config.json``.

    Args:
        name: The model's name, for errors.
        kind: The class.
        raw: The keys and values.
        file: The file's name, for errors.

    Raises:
        RunError: The config names code, a kernel, an address or no dtype, or overwrites a part of
            the class.
    """
    check_no_code(name, raw, file)
    check_quantisation(name, raw)
    return _allowed(name, kind, _numbers(without_choices(raw)), file)


def allowed_generation(name: str, kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what reaches ``kind`` of a ``generation_config.json``; see `allowed_config`.

    Raises:
        RunError: It names code or no dtype, or overwrites a part of the class.
    """
    check_no_code(name, raw, GENERATION_CONFIG)
    kept = {key: value for key, value in raw.items() if key not in _FASTER}
    return _allowed(name, kind, kept, GENERATION_CONFIG, {*vars(kind())})


def check_quantisation(name: str, config: Any) -> None:
    """Check that no quantisation config within a config names a file or code.

    compressed-tensors imports what a name as ``file.py:Name`` says.

    Raises:
        RunError: One does.
    """
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        if key in ("quantization_config", "compression_config") and isinstance(value, Mapping):
            kept = {each: of for each, of in value.items() if each not in _QUANTISER_INPUTS}
            if (found := _named(kept)) is not None:
                what, remedy = "a file", f"take {found} out of quantization_config"
                raise RunError("M707", name=name, file=CONFIG, what=what, key=found, remedy=remedy)
        else:
            check_quantisation(name, value)


def _named(config: Any, key: str = "") -> str | None:
    """Return the key of a text that may be a file or a name to import; None if there is none."""
    if isinstance(config, Mapping):
        found = (_named(value, str(each)) for each, value in config.items())
        return next((each for each in found if each is not None), None)
    if isinstance(config, list):
        return next((each for value in config if (each := _named(value, key))), None)
    if not isinstance(config, str) or config.startswith(_PATTERN):
        return None
    return key if is_address(config) or re.search(r"[/\\]|\.py\b", config) else None


def _allowed(
    name: str, kind: type, raw: Mapping[str, Any], file: str, declared: set[str] | None = None
) -> dict[str, Any]:
    declared = _declared(kind) if declared is None else declared
    parts = getattr(kind, "sub_configs", None) or {}
    passed = {}
    for key, value in raw.items():
        if key in _NAMES:
            continue
        if key not in declared:
            kept = _other(name, kind, key, value, file)
        elif isinstance(value, Mapping) and key in parts:
            kept = _allowed(name, _class_of(parts[key], value), value, file)
        else:
            kept = value
        if kept is not _NOTHING:
            passed[key] = kept
    return passed


def _declared(kind: type) -> set[str]:
    """Return the keys that a config class takes."""
    # not those of `ClassVar`s: they are tables of the class
    fields = {each.name for each in dataclasses.fields(kind)} if is_dataclass(kind) else set()
    taken = {*inspect.signature(kind).parameters} - {"args", "kwargs"}
    return fields | taken | {*getattr(kind, "attribute_map", ())}


def _class_of(part: Any, value: Mapping[str, Any]) -> type:
    """Return the class of a config within a config; transformers finds some by their type."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    if isinstance(part, type) and issubclass(part, PreTrainedConfig):
        return part
    kind = value.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    found: type = CONFIG_MAPPING[kind] if known else PreTrainedConfig
    return found


def _other(name: str, kind: type, key: str, value: Any, file: str) -> Any:
    """Return what passes of a key that a class does not declare, or `_NOTHING`.

    Raises:
        RunError: It overwrites a part of the class.
    """
    own = inspect.getattr_static(kind, key, _NOTHING)
    number = isinstance(value, bool | int | float) or value is None
    if own is _NOTHING:
        if key.startswith("_") and not number:
            return _NOTHING
        return _plain(name, value, file)
    if key == "model_type" or isinstance(own, property):
        return value if isinstance(value, str) else _plain(name, value, file)
    if _INERT.fullmatch(key) or value == own:
        return _NOTHING
    plain = number and not callable(own)
    if isinstance(own, str | list | tuple) and isinstance(value, str | list):
        plain = _plain(name, value, file) == value
    if plain:
        return value
    reason = f"{file} is invalid ({key} is a part of {kind.__name__}, and no setting)"
    raise RunError("M704", name=name, reason=reason)


def _plain(name: str, value: Any, file: str) -> Any:
    """Return a value without the addresses in it; `_NOTHING` for an address.

    Configs can lie within keys of older versions, so that these are judged as configs too.
    """
    if isinstance(value, str):
        return _NOTHING if is_address(value) and not value.startswith(_PATTERN) else value
    if isinstance(value, Mapping):
        from transformers import PreTrainedConfig

        kept = {}
        for key, each in value.items():
            nested = isinstance(each, Mapping | list)
            found = (
                _other(name, PreTrainedConfig, str(key), each, file)
                if nested and str(key) not in _declared(PreTrainedConfig)
                else _plain(name, each, file)
            )
            if found is not _NOTHING:
                kept[key] = found
        return kept
    if isinstance(value, list):
        found = [_plain(name, each, file) for each in value]
        return [each for each in found if each is not _NOTHING]
    return value


def _numbers(value: Any) -> Any:
    """Return a config with its numbers that JSON does not have, as transformers writes them."""
    if isinstance(value, dict):
        if value.keys() == {_FLOAT} and value[_FLOAT] in ("Infinity", "-Infinity", "NaN"):
            return float(value[_FLOAT])
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else value
