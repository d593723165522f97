"""Binding: which tensors of a base, by their names on disk, a module acts on. No torch here.

Used when a module is built (what it expects of its base) and when it is composed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from modpkg.errors import AdapterUnsupported, NothingMatches, ShapeMismatch, UnboundTensor
from modpkg.records import TensorType

TensorTypes = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape of a module's own tensors, by name."""

_LORA = re.compile(r"(?:base_model\.model\.)?(?P<path>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")

_CONV1D = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Architectures whose linear layers lie transposed ([in, out]) on disk."""

_HARMLESS = frozenset(
    {
        "alpha_pattern",
        "arrow_config",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
        "velora_config",
    }
)
"""Keys of adapter_config.json that are read here, or that change training only."""

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of init_lora_weights under which PEFT changes the base's own weights at the start."""


class LoraBinding(Struct, frozen=True):
    """One pair of low-rank factors and the tensor it is added to."""

    target: str
    a: str
    """Name of A, shape [rank, in]."""
    b: str
    """Name of B, shape [out, rank]."""
    scale: float
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
    transposed: bool
    """Whether the target lies as [in, out]."""


class HeadBinding(Struct, frozen=True):
    """What a head brings."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]


def bind_lora(
    module: str,
    tensors: TensorTypes,
    config: Mapping[str, Any],
    base: Mapping[str, TensorType],
    *,
    architecture: str | None = None,
    base_name: str = "its base",
) -> list[LoraBinding]:
    """Return where each pair of LoRA factors of a PEFT adapter goes.

    Method: Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732. Ranks
    and alphas follow PEFT, patterns included. Every tensor of the adapter is used exactly once.

    Raises:
        AdapterUnsupported: the config or a tensor asks for something this cannot do exactly.
        NothingMatches, UnboundTensor, ShapeMismatch: the adapter is not one for this base.
    """
    _check_config(module, config)
    pairs: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        match = _LORA.fullmatch(name)
        if match is None:
            raise AdapterUnsupported(module=module, reason=f"it has a tensor {name!r}")
        sides = pairs.setdefault(match["path"], {})
        if match["side"] in sides:
            raise AdapterUnsupported(module=module, reason=f"it has two tensors for {name!r}")
        sides[match["side"]] = name
    for path, sides in pairs.items():
        if len(sides) != 2:
            lone = next(iter(sides.values()))
            raise UnboundTensor(
                tensor=lone, module=module, base=base_name, reason=f"{path} lacks its other factor"
            )
    rename = _renaming(module, list(pairs), base, base_name, pairs)
    return [
        _bind_pair(
            module, path, sides, rename(path), tensors, config, base, architecture, base_name
        )
        for path, sides in pairs.items()
    ]


def _bind_pair(
    module: str,
    path: str,
    sides: Mapping[str, str],
    target: str,
    tensors: TensorTypes,
    config: Mapping[str, Any],
    base: Mapping[str, TensorType],
    architecture: str | None,
    base_name: str,
) -> LoraBinding:
    a_shape, b_shape = tensors[sides["A"]][1], tensors[sides["B"]][1]
    shape = tuple(base[target].shape)
    if len(a_shape) != 2 or len(b_shape) != 2 or len(shape) != 2:
        raise AdapterUnsupported(
            module=module, reason=f"{sides['A']!r} acts on a tensor that is not a matrix"
        )
    rank, width = a_shape
    height = b_shape[0]
    declared = _by_pattern(module, config, "rank_pattern", path, config.get("r", 8))
    if b_shape[1] != rank or declared != rank:
        raise AdapterUnsupported(
            module=module,
            reason=f"{sides['A']!r} has rank {rank}, {sides['B']!r} rank {b_shape[1]}, and "
            f"adapter_config.json says {declared}",
        )
    straight, turned = shape == (height, width), shape == (width, height)
    if not straight and not turned:
        raise ShapeMismatch(
            module=module,
            tensor=sides["A"],
            actual=list(a_shape),
            target=target,
            base=base_name,
            expected=f"a factor for {list(shape)}",
        )
    if straight and turned:
        flagged = bool(config.get("fan_in_fan_out"))
        transposed = architecture in _CONV1D if architecture is not None else flagged
    else:
        transposed = turned
    alpha = _by_pattern(module, config, "alpha_pattern", path, config.get("lora_alpha", 8))
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraBinding(target, sides["A"], sides["B"], scale, transposed)


def _check_config(module: str, config: Mapping[str, Any]) -> None:
    def refuse(reason: str) -> AdapterUnsupported:
        return AdapterUnsupported(module=module, reason=reason)

    kind = config.get("peft_type")
    if kind != "LORA":
        raise refuse(f"its peft_type is {kind!r}, and the lora operator composes LORA")
    if config.get("bias", "none") != "none":
        raise refuse(f"it trains biases (bias = {config['bias']!r})")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise refuse(
            f"init_lora_weights = {start!r} changes the base's own weights; save it with PEFT's "
            "path_initial_model_for_weight_conversion first"
        )
    for key, value in config.items():
        if key not in _HARMLESS and value not in (None, False, {}, []):
            raise refuse(f"adapter_config.json has {key} = {value!r}")
    if config.get("arrow_config") or config.get("velora_config"):
        raise refuse("adapter_config.json has arrow_config or velora_config")
    for key in ("r", "lora_alpha"):
        value = config.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise refuse(f"adapter_config.json has {key} = {value!r}")


def _by_pattern(
    module: str, config: Mapping[str, Any], table: str, path: str, default: float
) -> float:
    """Return the entry of rank_pattern or alpha_pattern for a module path, as PEFT picks it.

    PEFT matches ``(.*\\.)?(<key>)$`` with the first key that does. Keys come from outside, so
    those whose matching could take exponential time are refused.
    """
    patterns = config.get(table) or {}
    if not isinstance(patterns, dict):
        raise AdapterUnsupported(module=module, reason=f"{table} is not a table")
    for key, value in patterns.items():
        if (
            len(key) > 200
            or re.search(r"[)*+?}][*+{]|\)\?|\\[1-9]|\(\?", key)
            or key.count("*") > 3
        ):
            raise AdapterUnsupported(module=module, reason=f"{table} has the pattern {key!r}")
        try:
            matched = re.match(rf"(.*\.)?({key})$", path)
        except re.error:
            raise AdapterUnsupported(
                module=module, reason=f"{table} has the pattern {key!r}"
            ) from None
        if matched:
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise AdapterUnsupported(module=module, reason=f"{table} has {key!r} = {value!r}")
            return value
    return default


def _renaming(
    module: str,
    paths: Sequence[str],
    base: Mapping[str, TensorType],
    base_name: str,
    pairs: Mapping[str, Mapping[str, str]],
) -> Callable[[str], str]:
    """Return how module paths become names on disk: one rule for the whole adapter.

    In memory a model may carry a prefix that its file lacks (``bert.``), or the other way round.
    """
    prefixes = sorted({name.split(".", 1)[0] for name in base if "." in name})
    rules = [_dropping(count) for count in (0, 1, 2)]
    added = [_adding(prefix) for prefix in prefixes]
    best: Callable[[str], str] = rules[0]
    best_count = 0
    for rule in [*rules, *added]:
        count = sum(rule(path) in base for path in paths)
        if count == len(paths) and paths:
            others = [other for other in added if other is not rule and rule in added]
            if any(all(other(path) in base for path in paths) for other in others):
                raise UnboundTensor(
                    tensor=pairs[paths[0]]["A"],
                    module=module,
                    base=base_name,
                    reason="it fits under several prefixes",
                )
            return rule
        if count > best_count:
            best, best_count = rule, count
    example = next((path for path in paths if best(path) not in base), "nothing")
    if best_count == 0:
        shown = pairs[example]["A"] if example in pairs else "nothing"
        raise NothingMatches(
            module=module, base=base_name, example=shown, target=f"{example}.weight"
        )
    raise UnboundTensor(
        tensor=pairs[example]["A"],
        module=module,
        base=base_name,
        reason=f"there is no tensor {best(example)!r}",
    )


def _dropping(count: int) -> Callable[[str], str]:
    return lambda path: ".".join(path.split(".")[count:]) + ".weight"


def _adding(prefix: str) -> Callable[[str], str]:
    return lambda path: f"{prefix}.{path}.weight"


def bind_head(
    module: str,
    tensors: TensorTypes,
    base: Mapping[str, TensorType],
    replace: Sequence[str],
    *,
    base_name: str = "its base",
) -> HeadBinding:
    """Return which of a head's tensors are new to the base, and which take the place of others.

    A tensor whose name the base has needs to be listed in ``replace``, by its name or by a prefix
    that ends with '.'.

    Raises:
        UnboundTensor: a name the base has is not listed, or a listed one does not occur.
    """
    added, replaced = [], []
    used: set[str] = set()
    for name in sorted(tensors):
        if name not in base:
            added.append(name)
            continue
        rules = [
            rule
            for rule in replace
            if name == rule or (rule.endswith(".") and name.startswith(rule))
        ]
        if not rules:
            raise UnboundTensor(
                tensor=name,
                module=module,
                base=base_name,
                reason=f"the base has one of that name; to replace it, write replace = [{name!r}] "
                "in the step",
            )
        used.update(rules)
        replaced.append(name)
    for rule in replace:
        if rule not in used:
            raise UnboundTensor(
                tensor=rule,
                module=module,
                base=base_name,
                reason="the step's replace names it, but the head and the base do not share it",
            )
    return HeadBinding(tuple(added), tuple(replaced))
