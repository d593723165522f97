"""How a base whose tensors are tied becomes one in which each has values of its own.

transformers is the judge: the model is built on torch's meta device with its config, and again with
``tie_word_embeddings`` set to false. What was one parameter then has to be several, and nothing
else may differ: neither other settings, nor what the forward pass does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from modpkg.core.errors import ModpkgError
from modpkg.core.records import MemoryPiece, TensorType, UntiedRecord
from modpkg.core.tensors import TypedTensor
from modpkg.core.untied import TIES, untied_config
from modpkg.runtime.memory_layout import MemoryLayout, layout_of_model
from modpkg.runtime.meta_model import meta_model

_ONLY_TIES = re.compile(r"__init_subclass__|_init_weights|tie_|resize_|embeddings?$")
"""Methods that may ask whether embeddings are tied: none of them runs in a forward pass."""
_ONLY_KEPT = re.compile(rf"self\.{TIES} = (?:self\.)?config\.{TIES}|config\.{TIES} = False")
"""What a constructor may do with the setting."""


def untie(
    name: str, config: Mapping[str, Any], disk: Mapping[str, TypedTensor]
) -> UntiedRecord | str:
    """Return how a base is untied, or why it cannot be.

    Args:
        name: The base's name, for errors.
        config: Its ``config.json``.
        disk: Its tensors.
    """
    try:
        tied = meta_model(name, config, len(disk))
        if tied is None:
            return "transformers cannot build its architecture without weights"
        architecture = type(tied).__name__
        groups = _groups(tied)
        if not groups:
            return f"transformers ties no tensors of {architecture}"
        places = _places(tied, config)
        edited = untied_config(config, places)
        own = meta_model(name, edited, len(disk))
    except ModpkgError as error:
        return str(error)
    if own is None or own.state_dict().keys() != tied.state_dict().keys():
        return f"without ties transformers builds another model of {architecture}"
    if left := _groups(own):
        one, other, *_ = min(left)
        return (
            f"transformers has {one!r} and {other!r} of {architecture} as one tensor, whatever "
            f"{TIES} says"
        )
    if setting := _other_setting(tied.config.to_dict(), own.config.to_dict()):
        return f"{TIES} = false also changes {setting!r} of {architecture}"
    if asks := next(filter(_asks, {type(module): module for module in own.modules()}), None):
        return f"{asks.__name__} computes something else where {TIES} is false"
    return _record(tied, own, groups, places, disk)


def _groups(model: Any) -> list[tuple[str, ...]]:
    """Return the names of the saved tensors of a model that are one, sorted."""
    model.tie_weights()
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return sorted(tuple(sorted(group)) for group in names.values() if len(group) > 1)


def _places(model: Any, config: Mapping[str, Any]) -> list[list[str]]:
    """Return where ``config.json`` ties the tensors of a model; the whole config is one place."""
    ties = [
        module.config
        for module in model.modules()
        if hasattr(module, "get_expanded_tied_weights_keys")
        and module.get_expanded_tied_weights_keys(all_submodels=False)
    ]
    return [[]] + [
        keys
        for keys, table, parsed in _nested(config, model.config)
        if table.get(TIES) is True
        or any(own is parsed or _equal(own, parsed) for own in ties if own is not model.config)
    ]


def _nested(
    table: Mapping[str, Any], parsed: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[list[str], Mapping[str, Any], Any]]:
    """Yield the configs inside of one: the keys that lead to each, its JSON, and transformers'."""
    for key, value in table.items():
        inner = getattr(parsed, key, None)
        if isinstance(value, Mapping) and hasattr(inner, "to_dict") and len(keys) < 4:
            yield [*keys, key], value, inner
            yield from _nested(value, inner, (*keys, key))


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one.to_dict() == other.to_dict())


def _other_setting(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return a setting that differs between two configs, apart from the ties."""
    for key in sorted(one.keys() | other.keys()):
        mine, its = one.get(key), other.get(key)
        if key == TIES or mine == its:
            continue
        if not (isinstance(mine, dict) and isinstance(its, dict)):
            return key
        if inner := _other_setting(mine, its):
            return inner
    return None


def _asks(cls: type) -> bool:
    """Return whether a module's class may compute something else where embeddings are not tied."""
    for owner in cls.__mro__:
        if not owner.__module__.startswith("transformers.models."):
            continue
        for name, method in vars(owner).items():
            if not inspect.isfunction(method) or (_ONLY_TIES.search(name) and name != "__init__"):
                continue
            try:
                lines = inspect.getsource(method).splitlines()
            except (OSError, TypeError):
                return True
            if any(TIES in line and not _ONLY_KEPT.fullmatch(line.strip()) for line in lines):
                return True
    return False


def _record(
    tied: Any,
    own: Any,
    groups: list[tuple[str, ...]],
    places: list[list[str]],
    disk: Mapping[str, TypedTensor],
) -> UntiedRecord | str:
    before = layout_of_model(tied, disk)
    tensors: dict[str, str] = {}
    types: dict[str, TypedTensor] = dict(disk)
    added: list[str] = []
    for group in groups:
        stored = {name: before.tensors[name] for name in group if name in before.tensors}
        names = {name: _whole(before, name, disk) for name in stored}
        if not stored:
            continue
        if None in names.values():
            return f"transformers makes {min(stored)!r} from other tensors"
        source, *copies = (str(disk_name) for _, disk_name in sorted(names.items()))
        tensors |= dict.fromkeys(copies, source)
        for name in group:
            if name not in stored:
                if name in disk:
                    return f"the base has another tensor of the name {name!r}"
                tensors[name] = source
                types[name] = TensorType(disk[source].dtype, list(disk[source].shape))
                added.append(name)
    after = layout_of_model(own, types)
    if any(_whole(after, name, types) != name for name in added) or any(
        after.tensors.get(name) != parameter for name, parameter in before.tensors.items()
    ):
        return "transformers reads its tensors under other names once they are not tied"
    return UntiedRecord(tensors=dict(sorted(tensors.items())), config=places)


def _whole(layout: MemoryLayout, name: str, disk: Mapping[str, TypedTensor]) -> str | None:
    """Return the tensor on disk that a parameter is, unchanged; None if it is not one."""
    parameter = layout.tensors.get(name)
    if parameter is None or parameter.transposed or len(parameter.pieces) != 1:
        return None
    piece = parameter.pieces[0]
    same = piece == MemoryPiece(piece.tensor) and list(disk[piece.tensor].shape) == parameter.shape
    return piece.tensor if same else None
