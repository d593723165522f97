"""What a config asks for, compared with what its weights hold, while the model is built.

A config is a few numbers from outside: a million layers, or a position table of a terabyte, are as
quickly written as real ones. Constructors of transformers make what they are asked for. So modules,
parameters and memory are counted while they do, and building ends where no tensor could fill them.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from modpkg.core.bounds import BUILT_BYTES, BUILT_PARTS, BUILT_PARTS_PER_TENSOR
from modpkg.core.errors import RunError
from modpkg.core.regular_file import read_text

_SMALL = 4096
"""A number in a config that may be anything: a table of its square takes little."""
_PARAMETERS_PER_BYTE = 8
"""Bytes of parameters for a byte on disk: float32 for an FP8, once more for a tied output."""


@contextlib.contextmanager
def parts_bounded(name: str, tensors: int) -> Iterator[None]:
    """Stop building a model in this thread at more parts than some tensors could fill.

    Parts are modules, parameters and buffers.

    Raises:
        RunError: The config describes more; ``name`` is the model's.
    """
    most = BUILT_PARTS + BUILT_PARTS_PER_TENSOR * tensors
    count, thread = 0, threading.get_ident()

    def counted(module: Any, key: str, part: Any) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            if count > most:
                raise _refusal(name, f"more than {most} modules, and it has {tensors} tensors")

    with contextlib.ExitStack() as hooks:
        for register in (
            register_module_module_registration_hook,
            register_module_parameter_registration_hook,
            register_module_buffer_registration_hook,
        ):
            hooks.callback(register(counted).remove)
        yield


@contextlib.contextmanager
def backed_by(
    name: str, cls: type, config: Any, tensors: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Stop building a model at more parts or memory than these tensors could fill.

    Args:
        name: The model's name, for errors.
        cls: Its class, of transformers.
        config: Its config object.
        tensors: Its tensors on disk.

    Raises:
        RunError: The config describes more.
    """
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    extents = frozenset(extent for tensor in tensors.values() for extent in tensor.shape)
    watched = _makes_tables(cls, config) or any(_unbacked(vars(config), extents))
    watch = _Allocations(name, held) if watched else contextlib.nullcontext()
    with parts_bounded(name, len(tensors)), watch:
        yield


def _makes_tables(cls: type, config: Any) -> bool:
    """Return whether a constructor may fill tensors, by its code: those of most decoders do not.

    To watch each operation takes twice as long as to build the model. A decoder whose only buffers
    are the frequencies of its heads fills nothing.
    """
    if getattr(config, "sub_configs", None):
        return True
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or not cls.__module__.startswith("transformers."):
        return True
    text = _FREQUENCIES.sub("", read_text(file))
    return _FILLS.search(text) is not None


_FREQUENCIES = re.compile(
    r"self\.(?:max_seq_len_cached|original_max_seq_len) = config\.max_position_embeddings\b"
    r"|self\.(?:original_)?inv_freq = nn\.Buffer\(inv_freq\b"
    r"|self\.register_buffer\(\"(?:original_)?inv_freq\", inv_freq\b"
)
_FILLS = re.compile(
    r"Buffer\(|register_buffer\(|max_position|n_positions|^from \.\.\w+\.modeling_", re.MULTILINE
)
_NO_SIZE = re.compile(r"(?:^|_)(?:id|ids|index|theta|base)$|^max_position_embeddings$|token_id$")


def _unbacked(config: Any, extents: Collection[int], key: str = "") -> Iterator[str]:
    """Yield the keys whose numbers are large and no extent of a tensor."""
    if isinstance(config, Mapping):
        for inner, value in config.items():
            yield from _unbacked(value, extents, str(inner))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _unbacked(value, extents, key)
    elif (
        isinstance(config, int | float)
        and config > _SMALL
        and config not in extents
        and not _NO_SIZE.search(key)
    ):
        yield key


class _Allocations(TorchDispatchMode):
    """Counts the memory of tensors before they are made."""

    def __init__(self, name: str, held: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = name
        self._held = held
        self._left = BUILT_BYTES + held
        self._left_for_parameters = BUILT_BYTES + _PARAMETERS_PER_BYTE * held

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.empty.memory_format:
            # What parameters are made of: without values, it takes no memory until it is written.
            kind = kwargs.get("dtype") or torch.get_default_dtype()
            self._left_for_parameters -= math.prod(args[0]) * kind.itemsize
        elif not any(result.alias_info for result in func._schema.returns):
            self._left -= _size(func, args, kwargs)
        if self._left < 0 or self._left_for_parameters < 0:
            what = f"far more memory than its {self._held} bytes of weights"
            raise _refusal(self._name, what)
        return func(*args, **kwargs)


def _size(func: Any, args: Any, kwargs: Mapping[str, Any]) -> int:
    """Return the bytes that an operation would take, from types and shapes alone; 0 if unknown."""
    empty_args, empty = tree_map_only(torch.Tensor, lambda t: t.to("meta"), (args, dict(kwargs)))
    if any(argument.name == "device" for argument in func._schema.arguments):
        empty["device"] = torch.device("meta")
    try:
        made = func(*empty_args, **empty)
    except Exception:  # not every operation is defined without values
        return 0
    made = made if isinstance(made, tuple | list) else (made,)
    return sum(t.numel() * t.element_size() for t in made if isinstance(t, torch.Tensor))


def _refusal(name: str, what: str) -> RunError:
    return RunError("M704", name=name, reason=f"config.json is invalid: it describes {what}")
