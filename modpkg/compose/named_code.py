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
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal|_autoset)?")
_KEPT = ("eager", "sdpa")
"""Implementations that a config may choose; the others are the choice of who runs the model."""
_LOOKED_UP = ("backbone", "architecture")
_ADDRESS = re.compile(r"[/:@\\]")
_NATIVE = "use a model whose architecture is in transformers or an installed package"


def check_no_code(name: str, config: Any, file: str = CONFIG) -> None:
    """Check that a config, at any depth, names no code, no kernel and no address.

    Raises:
        RunError: It does.
    """
    for key, value, beside in _entries(config, name, file):
        described = key == "backbone" and isinstance(beside.get("backbone_config"), dict)
        address = isinstance(value, str) and _ADDRESS.search(value) is not None
        if key in REMOTE and value:
            what, remedy = "custom code", _NATIVE
        elif _IMPLEMENTATION.fullmatch(key) and any(map(_ADDRESS.search, _texts(value))):
            what, remedy = "a kernel", f"take {key} out of {file}"
        elif key in _LOOKED_UP and address and not described:
            what, remedy = "a model of a hub", _NATIVE
        else:
            continue
        raise RunError("M707", name=name, file=file, what=what, key=key, remedy=remedy)


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
