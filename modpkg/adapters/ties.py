"""Adapters of a base that a recipe unties: what PEFT does to all tensors that are tied."""

from __future__ import annotations

from modpkg.adapters.changes import Adapter
from modpkg.adapters.names import AdapterTensors, NameMapping
from modpkg.adapters.peft_config import strings


def is_saved(name: str, modules: list[str]) -> bool:
    """Return whether a tensor is in one of ``modules_to_save``, as PEFT matches them.

    >>> is_saved("pre_classifier.weight", ["classifier"])
    True
    """
    return _root(name, modules) is not None


def values_for_ties(
    adapter: Adapter, tensors: AdapterTensors, mapping: NameMapping
) -> list[tuple[str, str]]:
    """Return the tied tensors that get the value of a layer of the base, with that value.

    PEFT saves such layers (``save_embedding_layers``), and loads them into the one tensor; what is
    in ``modules_to_save`` is a copy.

    Raises:
        ComposeError: Two values for one tensor differ.
    """
    modules = strings(adapter, "modules_to_save")
    found = {target: name for name in tensors.plain if (target := mapping.find(name)) is not None}
    values: list[tuple[str, str]] = []
    for target, name in sorted(found.items()):
        if is_saved(name, modules):
            continue
        tensor = tensors.plain[name]
        for other in sorted(set().union(*(each for each in adapter.ties if target in each))):
            twin = found.get(other)
            if twin is None:
                values.append((other, tensor))
            elif not is_saved(twin, modules) and not adapter.equal(tensor, tensors.plain[twin]):
                raise adapter.refuse(
                    f"{tensor!r} and {tensors.plain[twin]!r} differ, and are for one tensor"
                )
    return values


def refuse_half_of_module(adapter: Adapter, tensors: AdapterTensors, mapping: NameMapping) -> None:
    """Check that tensors that are tied inside of one saved module are saved alike.

    PEFT copies a module with the ties inside of it, so they stay one tensor.

    Raises:
        ComposeError: Only one of them is in the file, or they differ.
    """
    modules = strings(adapter, "modules_to_save")
    found = {target: name for name in tensors.plain if (target := mapping.find(name)) is not None}
    for target, name in sorted(found.items()):
        root = _root(name, modules)
        if root is None or not target.endswith(name[len(root) :]):
            continue
        inside = target[: len(target) - len(name) + len(root)] + "."
        for other in sorted(set().union(*(each for each in adapter.ties if target in each))):
            if other == target or not other.startswith(inside):
                continue
            twin = found.get(other)
            if twin is None or not adapter.equal(tensors.plain[name], tensors.plain[twin]):
                raise adapter.refuse(
                    f"{target!r} and {other!r} are one tensor in the module that it saves, and "
                    f"{tensors.plain[name]!r} is for only one of them"
                )


def _root(name: str, modules: list[str]) -> str | None:
    """Return the path of the module of ``modules_to_save`` that a tensor is in.

    >>> _root("bert.cls.predictions.bias", ["cls"])
    'bert.cls'
    """
    parts, ends = name.split("."), tuple(modules)
    around = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((path for path in around if path.endswith(ends)), None)


def refuse_ties(adapter: Adapter, tensors: AdapterTensors) -> None:
    """Check that an adapter of an untied base has nothing that PEFT applies to all tied tensors.

    Raises:
        ComposeError: It trains tokens, or keeps tensors tied.
    """
    if adapter.ties and tensors.tokens:
        raise adapter.refuse("it trains single tokens, which changes all tied tensors alike")
    if adapter.ties and adapter.config.get("ensure_weight_tying"):
        raise adapter.refuse("it has ensure_weight_tying, which changes all tied tensors alike")
