"""Which tensors of a base an adapter or a head touches. Imports no torch.

One meaning, used twice: when a module is built (to record what it expects of its base) and when
it is composed. Accounts are strict: every tensor of the module is bound exactly once, or an
error names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from modpkg.errors import (
    AdapterUnsupported,
    ComposeError,
    NothingMatches,
    ShapeMismatch,
    UnboundTensor,
)
from modpkg.interface import HasType
from modpkg.release.lora_config import LoraConfig

TypePair = tuple[str, Sequence[int]]
"""A tensor's dtype (as safetensors spells it) and shape."""


class LoraBinding(Struct, frozen=True):
    """One base tensor and the pair of adapter tensors that acts on it.

    ``delta = scale · B @ A`` with A of shape (rank, in) and B of shape (out, rank); a base tensor
    that is stored as (in, out) gets the transpose.
    """

    target: str
    a: str
    b: str
    rank: int
    scale: float
    """alpha / rank, or alpha / √rank (rsLoRA); the step's own scale is not in it."""
    transposed: bool


class HeadBinding(Struct, frozen=True):
    """What a head does to the table of tensors."""

    added: tuple[str, ...]
    """The head's tensors that the base lacks."""
    replaced: tuple[str, ...]
    """The head's tensors that take the place of the base's."""
    removed: tuple[str, ...]
    """The base's tensors under ``replace`` that the head has nothing for."""


_PAIR = re.compile(r"^(?P<path>.{1,500})\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
_CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Architectures whose linear layers are stored as (in, out)."""
_PREFIXES = ("base_model.model.", "base_model.")


def bind_lora(
    module: str,
    names: Mapping[str, TypePair],
    config: Mapping[str, Any],
    base: Mapping[str, HasType],
    *,
    architecture: str | None = None,
    base_name: str = "the base",
) -> list[LoraBinding]:
    """Return which base tensor each pair of LoRA tensors acts on, sorted by target.

    ``names`` are the tensors of the adapter's file and ``config`` its ``adapter_config.json``, as
    PEFT writes them; ``architecture`` is the base's ``model_type``. LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685.

    A module path matches the base tensor ``<path>.weight``. PEFT's paths are those of the model
    class it was trained in, so one leading part (``bert.``, ``model.``, ``transformer.``) may
    be missing on either side; but it is the same for all tensors of an adapter, and every one of
    them has to match.

    Raises:
        AdapterUnsupported: the adapter needs something that would not be applied.
        NothingMatches, UnboundTensor: some of its tensors have no place in the base.
        ShapeMismatch: it was made for a base of another shape.
    """
    settings = LoraConfig.of(config, module)
    pairs = _pairs(names, module, base_name)
    place = _placement(pairs, base, module, base_name)
    square: list[LoraBinding] = []
    bindings: list[LoraBinding] = []
    for path, (a, b) in sorted(pairs.items()):
        target = place[path]
        rank, scale = settings.scaling(path)
        binding = LoraBinding(target, a, b, rank, scale, transposed=False)
        fits = _orientations(binding, names, base[target], module, base_name)
        if len(fits) == 2:
            square.append(binding)
        else:
            bindings.append(structs.replace(binding, transposed=fits[0]))
    # A square weight fits both ways. Its layer is of one kind with the adapter's other layers;
    # where there are none, PEFT has written the kind into fan_in_fan_out itself.
    conv1d = settings.fan_in_fan_out or architecture in _CONV1D
    seen = {binding.transposed for binding in bindings} or {conv1d}
    if square and len(seen) == 2:
        raise AdapterUnsupported(
            module=module,
            reason=f"it acts on {square[0].target!r}, a square weight beside weights of both "
            "orientations, so that its own cannot be told",
        )
    way = next(iter(seen))
    bindings += [structs.replace(binding, transposed=way) for binding in square]
    return sorted(bindings, key=lambda binding: binding.target)


def _pairs(
    names: Mapping[str, TypePair], module: str, base_name: str
) -> dict[str, tuple[str, str]]:
    """Group the adapter's tensors by module path; refuse all that are not a LoRA pair."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        match = _PAIR.match(name)
        if match is None:
            raise AdapterUnsupported(module=module, reason=_why_not(name))
        path = match["path"]
        for prefix in _PREFIXES:
            if path.startswith(prefix):
                path = path.removeprefix(prefix)
                break
        sides = found.setdefault(path, {})
        if match["side"] in sides:
            raise UnboundTensor(
                tensor=name,
                module=module,
                base=base_name,
                reason=f"{sides[match['side']]!r} is for the same place",
            )
        sides[match["side"]] = name
    pairs: dict[str, tuple[str, str]] = {}
    for path, sides in found.items():
        if len(sides) != 2:
            (side, name) = next(iter(sides.items()))
            other = "B" if side == "A" else "A"
            raise UnboundTensor(
                tensor=name,
                module=module,
                base=base_name,
                reason=f"the lora_{other} that belongs to it is missing",
            )
        pairs[path] = (sides["A"], sides["B"])
    if not pairs:
        raise AdapterUnsupported(module=module, reason="it holds no tensor at all")
    return pairs


def _why_not(name: str) -> str:
    known = {
        "lora_magnitude_vector": "DoRA's magnitudes",
        "lora_embedding_": "LoRA of an embedding",
        ".bias": "a trained bias",
        "modules_to_save": "a whole module that was trained (make it a module of kind 'head')",
        "base_layer": "weights of the base itself",
        "trainable_tokens": "trained rows of an embedding",
    }
    for part, what in known.items():
        if part in name:
            return f"tensor {name!r} is {what}"
    return f"tensor {name!r} is not a part of a LoRA pair"


def _placement(
    pairs: Mapping[str, tuple[str, str]],
    base: Mapping[str, HasType],
    module: str,
    base_name: str,
) -> dict[str, str]:
    """Return the base tensor of each module path: all under one change of the leading part."""
    stripped = {path.partition(".")[0] for path in pairs if "." in path}
    added = {name.partition(".")[0] for name in base if "." in name}
    candidates: list[dict[str, str]] = [{path: f"{path}.weight" for path in pairs}]
    candidates += [
        {
            path: f"{path.removeprefix(part + '.')}.weight"
            for path in pairs
            if path.startswith(part + ".")
        }
        for part in sorted(stripped)
    ]
    candidates += [{path: f"{part}.{path}.weight" for path in pairs} for part in sorted(added)]
    whole = [c for c in candidates if len(c) == len(pairs) and all(t in base for t in c.values())]
    if whole and whole[0] is candidates[0]:
        return whole[0]
    if len(whole) == 1:
        return whole[0]
    example = min(pairs)
    if whole:
        raise UnboundTensor(
            tensor=pairs[example][0],
            module=module,
            base=base_name,
            reason=f"both {whole[0][example]!r} and {whole[1][example]!r} are there",
        )
    best = max(candidates, key=lambda c: sum(target in base for target in c.values()))
    if not any(target in base for target in best.values()):
        raise NothingMatches(
            module=module,
            base=base_name,
            example=pairs[example][0],
            target=f"{example}.weight",
        )
    path = min(path for path in pairs if best.get(path) not in base)
    raise UnboundTensor(
        tensor=pairs[path][0],
        module=module,
        base=base_name,
        reason=f"there is no {best.get(path, path + '.weight')!r} to act on",
    )


def _orientations(
    binding: LoraBinding,
    names: Mapping[str, TypePair],
    target: HasType,
    module: str,
    base_name: str,
) -> list[bool]:
    """Return whether the pair fits the base tensor as it is (False), transposed (True) or both."""
    (_, a), (_, b) = names[binding.a], names[binding.b]
    shape = tuple(target.shape)
    if len(shape) != 2 or len(a) != 2 or len(b) != 2:
        raise AdapterUnsupported(
            module=module,
            reason=f"{binding.target!r} has shape {list(shape)} and {binding.a!r} has "
            f"{list(a)}, and only matrices are implemented",
        )
    if a[0] != binding.rank or b[1] != binding.rank:
        actual, expected, tensor = (
            (list(a), [binding.rank, a[1]], binding.a)
            if a[0] != binding.rank
            else (list(b), [b[0], binding.rank], binding.b)
        )
        raise ShapeMismatch(
            module=module,
            tensor=tensor,
            actual=actual,
            target=f"rank {binding.rank} of adapter_config.json",
            base=base_name,
            expected=expected,
        )
    product = (b[0], a[1])
    fits = [way for way in (False, True) if shape == (product[::-1] if way else product)]
    if not fits:
        raise ShapeMismatch(
            module=module,
            tensor=binding.b if b[0] != shape[0] else binding.a,
            actual=list(product),
            target=binding.target,
            base=base_name,
            expected=list(shape),
        )
    return fits


def bind_head(
    module: str,
    names: Mapping[str, TypePair],
    base: Mapping[str, HasType],
    replace: Sequence[str] = (),
    *,
    base_name: str = "the base",
) -> HeadBinding:
    """Return what a head adds to the base and what it replaces there.

    A tensor that the base has too needs to be named in ``replace``: by its name, or by a prefix
    that ends with ``.``. What ``replace`` names and the head has nothing for, is removed.

    Raises:
        ComposeError: the head would replace a tensor that ``replace`` does not name, or ``replace``
            names nothing.
    """

    def named(name: str) -> bool:
        return any(name.startswith(r) if r.endswith(".") else name == r for r in replace)

    if not names:
        raise ComposeError(model=module, reason="the head holds no tensor at all")
    clashes = sorted(name for name in names if name in base and not named(name))
    if clashes:
        raise ComposeError(
            model=module,
            reason=f"tensor {clashes[0]!r} is in {base_name} too; if the head is to replace it, "
            f'write replace = ["{clashes[0]}"] in its step',
        )
    under = sorted(name for name in base if named(name))
    for entry in replace:
        if not any(n.startswith(entry) if entry.endswith(".") else n == entry for n in under):
            raise ComposeError(
                model=module,
                reason=f"replace names {entry!r}, but {base_name} has no such tensor",
            )
    return HeadBinding(
        added=tuple(sorted(name for name in names if name not in base)),
        replaced=tuple(name for name in under if name in names),
        removed=tuple(name for name in under if name not in names),
    )
