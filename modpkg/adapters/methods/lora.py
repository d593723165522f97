"""LoRA as PEFT writes it: linear, Conv1D, embeddings, convolutions, expert parameters, DoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, number, of_pattern, pattern, positive

PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_embedding_A": "embedding_a",
    "lora_embedding_B": "embedding_b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
_HARMLESS = (
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "init_lora_weights",
    "bias",
)
_READ = (
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "lora_alpha",
    "lora_bias",
    "r",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
)
_MEANINGS = {
    "alora_invocation_tokens": "activated LoRA acts on a part of the text only",
    "arrow_config": "Arrow routes between adapters by token",
    "kasa_config": "KaSA changes the base's weights",
    "megatron_config": "its layers are split over machines",
    "monteclora_config": "MonteCLoRA draws its weights at random",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "QALoRA pools its input",
    "velora_config": "VeLoRA is not known here",
}
# Initialisations that leave the base's weights as they are; the others (PiSSA, OLoRA, CorDA,
# LoftQ, LoRA-GA) move a part of the base into the adapter, so it belongs to another base, unless
# PEFT converted it when saving, and then it says ``true`` here.
_KEEPING_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")


class LoraSettings(Struct, frozen=True):
    """What of the configuration decides the result."""

    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    rslora: bool
    dora: bool

    def scaling(self, path: str) -> tuple[int, float]:
        """Return rank and alpha / rank, or alpha / √rank (rsLoRA), at a module path."""
        rank = of_pattern(self.rank_pattern, path, self.rank)
        alpha = of_pattern(self.alpha_pattern, path, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)


def settings_of(adapter: Adapter) -> LoraSettings:
    """Return the settings of a LoRA.

    Raises:
        ComposeError: a key asks for what would not be applied, or is not known.
    """
    check_keys(adapter, reads=_READ, harmless=_HARMLESS, meanings=_MEANINGS)
    config = adapter.config
    init = config.get("init_lora_weights", True)
    if init not in _KEEPING_INITS:
        raise adapter.refuse(
            f"init_lora_weights = {init!r} moved a part of the base's weights into it; save it "
            "with path_initial_model_for_weight_conversion to get a plain LoRA"
        )
    ranks = pattern(adapter, "rank_pattern")
    for rank in ranks.values():
        if not isinstance(rank, int) or rank < 1:
            raise adapter.refuse(f"{rank!r} is no rank")
    dora = bool(config.get("use_dora", False))
    if dora and config.get("lora_bias"):
        raise adapter.refuse("it has use_dora and lora_bias, whose merge PEFT does not define")
    return LoraSettings(
        rank=positive(adapter, "r", 8),
        alpha=number(adapter, "lora_alpha", 8),
        rank_pattern=ranks,
        alpha_pattern=pattern(adapter, "alpha_pattern"),
        rslora=bool(config.get("use_rslora", False)),
        dora=dora,
    )


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the changes of a LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685.

    Raises:
        ComposeError, ReleaseError: it cannot be applied, or not exactly.
    """
    settings = settings_of(adapter)
    changes: list[TensorChange] = []
    for site in sites:
        _complete(adapter, site, settings)
    linear = [site for site in sites if "a" in site.roles]
    ways = transposed(adapter, linear, lambda site: _product(adapter, site, settings))
    for site in linear:
        rank, scale = settings.scaling(site.path)
        inputs = {"a": site.roles["a"], "b": site.roles["b"]}
        parameters = {"transposed": True} if ways[site.target] else {}
        changes.append(_change(adapter, site, inputs, parameters, scale))
        if (bias := site.roles.get("b_bias")) is not None:
            changes.append(_bias(adapter, site, bias, scale))
    for site in sites:
        if "embedding_a" not in site.roles:
            continue
        rank, scale = settings.scaling(site.path)
        inputs = {"a": site.roles["embedding_a"], "b": site.roles["embedding_b"]}
        rows, width = (*adapter.target_shape(site.target), 0, 0)[:2]
        adapter.expect(inputs["a"], site.target, (rank, rows))
        adapter.expect(inputs["b"], site.target, (width, rank))
        changes.append(_change(adapter, site, inputs, {"transposed": True}, scale))
    return changes


def _complete(adapter: Adapter, site: Site, settings: LoraSettings) -> None:
    """Check that a site has its whole pair, and a magnitude exactly where DoRA needs one."""
    roles = site.roles
    for one, other, label in (
        ("a", "b", "lora_B"),
        ("b", "a", "lora_A"),
        ("embedding_a", "embedding_b", "lora_embedding_B"),
        ("embedding_b", "embedding_a", "lora_embedding_A"),
        ("magnitude", "b" if "b" in roles else "embedding_b", "lora_B"),
        ("b_bias", "b", "lora_B"),
    ):
        if one in roles and other not in roles:
            raise adapter.unbound(roles[one], f"the {label} that belongs to it is missing")
    if "a" in roles and "embedding_a" in roles:
        raise adapter.unbound(roles["embedding_a"], f"{roles['a']!r} is for the same place")
    if "b" in roles and ("b_bias" in roles) != bool(adapter.config.get("lora_bias")):
        raise adapter.refuse(
            f"tensor {roles['b_bias']!r} is a bias, but its adapter_config.json has no lora_bias"
            if "b_bias" in roles
            else f"it has lora_bias, but no bias beside {roles['b']!r}"
        )
    if ("magnitude" in roles) != settings.dora:
        tensor = roles.get("magnitude") or roles.get("b") or roles["embedding_b"]
        raise adapter.refuse(
            f"tensor {tensor!r} is DoRA's magnitudes, but its adapter_config.json has no use_dora"
            if "magnitude" in roles
            else f"it has use_dora, but no lora_magnitude_vector beside {tensor!r}"
        )


def _product(adapter: Adapter, site: Site, settings: LoraSettings) -> tuple[int, int, str]:
    """Return (out, in) of B @ A, having checked their rank and, for convolutions, their shape."""
    a, b = site.roles["a"], site.roles["b"]
    first, second = adapter.shape(a), adapter.shape(b)
    rank, _ = settings.scaling(site.path)
    target = adapter.target_shape(site.target)
    if len(first) != len(second) or len(first) < 2 or len(target) != len(first):
        raise adapter.refuse(
            f"{site.target!r} has shape {list(target)} and {a!r} has {list(first)}, "
            "and only matrices and convolutions of one shape are known"
        )
    where = f"rank {rank} of adapter_config.json"
    if first[0] != rank:
        raise adapter.misfit(a, where, [rank, *first[1:]])
    if len(first) > 2 and second[1] != rank:
        raise adapter.refuse(
            f"{site.target!r} is a convolution in groups, and B @ A mixes what its groups keep "
            "apart, so that no weight of its shape does the same"
        )
    if second[1] != rank or set(second[2:]) - {1}:
        raise adapter.misfit(b, where, [second[0], rank, *(1 for _ in second[2:])])
    if len(first) > 2 and first[1:] != target[1:]:
        if first[1] != target[1] and first[2:] == target[2:]:
            raise adapter.refuse(
                f"{site.target!r} is a convolution in groups, and B @ A mixes what its groups "
                "keep apart, so that no weight of its shape does the same"
            )
        raise adapter.misfit(a, site.target, [rank, *target[1:]])
    return second[0], math.prod(first[1:]), b


def _change(
    adapter: Adapter, site: Site, inputs: dict[str, str], parameters: dict[str, Any], scale: float
) -> TensorChange:
    magnitude = site.roles.get("magnitude")
    if magnitude is None:
        return TensorChange(
            target=site.target, op="lora", inputs=inputs, weight=scale, parameters=parameters
        )
    shape = adapter.target_shape(site.target)
    extent = shape[1] if parameters.get("transposed") else shape[0]
    if math.prod(adapter.shape(magnitude)) != extent:
        raise adapter.misfit(magnitude, site.target, [extent])
    return TensorChange(
        target=site.target,
        op="dora",
        inputs={**inputs, "magnitude": magnitude},
        parameters={**parameters, "scaling": scale},
    )


def _bias(adapter: Adapter, site: Site, bias: str, scale: float) -> TensorChange:
    if site.bias is None:
        raise adapter.refuse(
            f"tensor {bias!r} is a bias that is added, but {adapter.base_name} has no bias "
            f"beside {site.target!r} to add it to"
        )
    adapter.expect(bias, site.bias, adapter.target_shape(site.bias))
    return TensorChange(target=site.bias, op="lora", inputs={"bias": bias}, weight=scale)


LORA = PeftMethod(operator="lora", parts=PARTS, bind=bind)
