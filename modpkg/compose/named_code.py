"""What a config says of code, kernels and addresses: refused, or left to transformers' own choice.

A release is data. Its configs reach transformers, which runs code that ``auto_map`` names, fetches
a kernel (native code) that ``_attn_implementation`` names, and looks for a ``backbone`` on a hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from modpkg.core.bounds import CONFIG_DEPTH
from modpkg.core.errors import RunError
from modpkg.core.filenames import CONFIG

REMOTE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
"""Keys that name code; a config of a part of a model can have them too."""
_CLASS_NAME = "_cls_name"
_SETTINGS_CLASS = re.compile(r"\w*Config")
"""How a class is called that a table of settings is for: transformers calls what is named."""
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal|_autoset)?")
_KEPT = ("eager", "sdpa")
"""Implementations that a config may choose; the others are the choice of who runs the model."""
_LOOKED_UP = ("backbone", "architecture")
_ADDRESS = re.compile(r"[/:@\\]")
_PLACE = re.compile(
    r"[/~\\]|\.{1,2}[/\\]|\w[\w+.-]*:?//|[A-Za-z]:[/\\]"
    r"|[^\s/]+/\S*$|[\w./-]+:[A-Za-z_][\w.]*$"
)
"""The beginning of a path, an address, a name on a hub, or a name to import as ``module:name``."""
_DTYPE = re.compile(r"(?:.*_)?dtype")
_WIDTHS = "float16 float32 float64 half float double bfloat16 complex32 complex64 complex128 bool"
_WIDTHS += " float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
_WIDTHS += " float4_e2m1fn_x2 int8 int16 int32 int64 uint8 uint16 uint32 uint64 int4 uint4"
_WIDTHS += " int1 int2 int3 int5 int6 int7 uint1 uint2 uint3 uint5 uint6 uint7"
_WIDTHS += " short int long chalf cfloat cdouble"
_WIDTHS += " auto fp4 fp8 fp16 fp32 bf16 mxfp4 nvfp4"
DTYPES = frozenset(_WIDTHS.split())
"""What can stand as a dtype: names that torch has, and of formats that it has no dtype for."""
_NATIVE = "use a model whose architecture is in transformers or an installed package"


def check_no_code(name: str, config: Any, file: str = CONFIG) -> None:
    """Check that a config, at any depth, names no code, no kernel and no address.

    Raises:
        RunError: It does, or names a dtype that is none.
    """
    for key, value, beside in _entries(config, name, file):
        described = key == "backbone" and isinstance(beside.get("backbone_config"), dict)
        address = isinstance(value, str) and _ADDRESS.search(value) is not None
        if _DTYPE.fullmatch(key) and (other := _no_dtype(value)) is not None:
            reason = f"{file} is invalid ({key} is {other!r:.100}, which is no dtype)"
            raise RunError("M704", name=name, reason=reason)
        if key in REMOTE and value:
            what, remedy = "custom code", _NATIVE
        elif key == _CLASS_NAME and _SETTINGS_CLASS.fullmatch(str(value)) is None:
            what, remedy = "custom code", f"take {key} out of {file}"
        elif _IMPLEMENTATION.fullmatch(key) and any(map(_ADDRESS.search, _texts(value))):
            what, remedy = "a kernel", f"take {key} out of {file}"
        elif key in _LOOKED_UP and address and not described:
            what, remedy = "a model of a hub", _NATIVE
        else:
            continue
        raise RunError("M707", name=name, file=file, what=what, key=key, remedy=remedy)


def is_address(text: str) -> bool:
    """Return whether a text is a path, an address, a name on a hub, or one to import.

    >>> [is_address(text) for text in ("/etc", "org/name", "a.py:B", "linear", "en to de: ")]
    [True, True, True, False, False]
    """
    return _PLACE.match(text) is not None


def _no_dtype(value: Any) -> str | None:
    """Return a text that stands for a dtype and is none; transformers looks it up in torch."""
    if isinstance(value, Mapping):
        found = map(_no_dtype, value.values())
        return next((each for each in found if each is not None), None)
    if not isinstance(value, str):
        return None
    return None if value.removeprefix("torch.") in DTYPES else value


def without_choices(config: Any) -> Any:
    """Return a config without its choices of an implementation, but eager and sdpa.

    All implementations compute the same; some run a compiler or need a package.
    """
    if isinstance(config, Mapping):
        return {
            key: without_choices(value)
            for key, value in config.items()
            if not (isinstance(key, str) and _IMPLEMENTATION.fullmatch(key)) or value in _KEPT
        }
    return [without_choices(value) for value in config] if isinstance(config, list) else config


def _entries(
    config: Any, name: str, file: str, depth: int = 0
) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield each key with its value, and the object that has it.

    Raises:
        RunError: The config is nested too deeply.
    """
    if depth > CONFIG_DEPTH:
        raise RunError("M704", name=name, reason=f"{file} is nested too deeply")
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield str(key), value, config
            yield from _entries(value, name, file, depth + 1)
    elif isinstance(config, list):
        for value in config:
            if isinstance(value, dict | list):
                yield from _entries(value, name, file, depth + 1)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        # "paged|sdpa" and the like are transformers' own
        yield value.removeprefix("paged|")
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
