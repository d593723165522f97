"""PEFT's ``adapter_config.json`` for LoRA, read without PEFT: exact, or refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from modpkg.errors import AdapterUnsupported

# Keys that say how the adapter was trained or where it belongs, not what it computes.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_READ = {
    "alpha_pattern",
    "fan_in_fan_out",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "use_rslora",
}
# Keys that change what is computed, with the value that leaves it plain LoRA.
_PLAIN: dict[str, Any] = {"bias": "none", "lora_bias": False}
_MEANINGS = {
    "alora_invocation_tokens": "activated LoRA acts on a part of the text only",
    "arrow_config": "Arrow routes between adapters by token",
    "bias": "biases were trained too",
    "kasa_config": "KaSA changes the base's weights",
    "layer_replication": "layers are repeated",
    "lora_bias": "B has a bias",
    "modules_to_save": "whole modules were trained too; make them a module of kind 'head'",
    "target_parameters": "it acts on parameters rather than on modules",
    "trainable_token_indices": "rows of the embedding were trained too",
    "use_bdlora": "its factors are block-diagonal",
    "use_dora": "DoRA rescales the base's weights",
    "use_qalora": "QALoRA pools its input",
}
# Initialisations that leave the base's weights as they are; the others (PiSSA, OLoRA, CorDA,
# LoftQ, LoRA-GA) move a part of the base into the adapter, so it belongs to another base, unless
# PEFT converted it when saving, and then it says ``true`` here.
_KEEPING_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")


class LoraConfig(Struct, frozen=True):
    """What of the configuration decides the result."""

    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    rslora: bool
    fan_in_fan_out: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], module: str) -> LoraConfig:
        """Return the settings in ``config``.

        Raises:
            AdapterUnsupported: a key asks for what would not be applied, or is not known.
        """

        def refuse(reason: str) -> AdapterUnsupported:
            return AdapterUnsupported(module=module, reason=reason)

        if config.get("peft_type") != "LORA":
            raise refuse(f"its peft_type is {config.get('peft_type')!r}, and only 'LORA' is known")
        for key, value in sorted(config.items()):
            if key in _HARMLESS or key in _READ:
                continue
            if value == _PLAIN.get(key) or value in (None, False, [], {}):
                continue
            meaning = _MEANINGS.get(key, "what that means is not known here")
            raise refuse(f"its adapter_config.json sets {key} = {value!r}: {meaning}")
        init = config.get("init_lora_weights", True)
        if init not in _KEEPING_INITS:
            raise refuse(
                f"init_lora_weights = {init!r} moved a part of the base's weights into it; save it "
                "with path_initial_model_for_weight_conversion to get a plain LoRA"
            )
        settings = cls(
            rank=_number(config, "r", 8, refuse),
            alpha=_number(config, "lora_alpha", 8, refuse),
            rank_pattern=_pattern(config, "rank_pattern", refuse),
            alpha_pattern=_pattern(config, "alpha_pattern", refuse),
            rslora=bool(config.get("use_rslora", False)),
            fan_in_fan_out=bool(config.get("fan_in_fan_out", False)),
        )
        for rank in (settings.rank, *settings.rank_pattern.values()):
            if not isinstance(rank, int) or rank < 1:
                raise refuse(f"{rank!r} is no rank")
        return settings

    def scaling(self, path: str) -> tuple[int, float]:
        """Return rank and scale of the pair at a module path.

        Patterns match the path from its beginning or from after a dot, to its end.
        """
        rank = self.rank_pattern.get(_pattern_key(self.rank_pattern, path), self.rank)
        alpha = self.alpha_pattern.get(_pattern_key(self.alpha_pattern, path), self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)


def _pattern_key(keys: Iterable[str], path: str) -> str:
    """Return the first key that matches the end of ``path``, as `peft.utils.other` does."""
    for key in keys:
        if re.match(rf"(.*\.)?({key})$", path):
            return key
    return path


def _number(config: Mapping[str, Any], key: str, default: int, refuse: Any) -> Any:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refuse(f"its adapter_config.json has {key} = {value!r}, which is no number")
    return value


# The patterns are regular expressions by somebody unknown: those that could take forever to match
# (a repeated group, many repetitions) are refused.
_LONGEST_PATTERN = 1000
_MOST_REPETITIONS = 2
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")


def _pattern(config: Mapping[str, Any], key: str, refuse: Any) -> dict[str, Any]:
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise refuse(f"its adapter_config.json has {key} = {table!r}, which is no table")
    for pattern in table:
        _number(table, pattern, 0, refuse)
        try:
            if len(pattern) > _LONGEST_PATTERN or _REPEATED_GROUP.search(pattern):
                raise re.error("it is too long or repeats a group")
            if len(re.findall(r"[*+{]", pattern)) > _MOST_REPETITIONS:
                raise re.error("it has too many repetitions")
            re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise refuse(f"{key} has {pattern!r}, which is no pattern ({error})") from None
    return table
