"""LoRA: a low-rank change.

    delta = scale · B @ A        scale = alpha / rank, with rsLoRA alpha / √rank

with A of shape (rank, in) and B of shape (out, rank). For weights stored as (in, out), as GPT-2's
are, and for embeddings, the transpose; for convolutions, A and B are flattened to matrices. With
AdaLoRA, A's rows are scaled by E. Hu et al. 2021, https://arxiv.org/abs/2106.09685; rsLoRA:
Kalajdzievski 2023, https://arxiv.org/abs/2312.03732.

DoRA (``use_dora``) changes a weight's direction by it, and trains its magnitude m:

    V = W + scale · B @ A        delta = m / ‖V‖ · V − W

with one norm and one magnitude for each output, or for each column of an embedding. Liu et al.
2024, https://arxiv.org/abs/2402.09353.

Other variants: see `modpkg.adapters.lora_variants`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    BaseRows,
    Coefficients,
    Formula,
    as_matrix,
    base_rows,
)
from modpkg.adapters.lora_variants import (
    EMBEDDINGS,
    MOVING_INITS,
    VARIANTS,
    blocks_of,
    diagonal_factor,
    expect_magnitude,
    initialisation,
    pooled_group,
    refuse_variants,
    variant_change,
    without_moved,
)
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import Scaling, check_keys, scaling_of
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ADAPTER_CONFIG

if TYPE_CHECKING:
    from torch import Tensor

    from modpkg.adapters.formula import Array

_KEYS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_embedding_A": "embedding_a",
    "lora_embedding_B": "embedding_b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_diag": "diagonal",
    "lora_velora_embed": "",
    "lora_monteclora_sampler.*": "",
}
_IGNORED = (
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "qalora_group_size",
    "monteclora_config",
    "runtime_config",
    "velora_config",
    "init_lora_weights",
    "bias",
)
_READ = (
    "alpha_pattern",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_alpha",
    "lora_bias",
    "r",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
)
_MEANINGS = {
    "alora_invocation_tokens": "activated LoRA acts on a part of the input only",
    "arrow_config": "Arrow routes between adapters by token",
    "megatron_config": "its layers are split over several devices",
}
# Initialisations that leave the base's weights unchanged.
_KEEPING_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
# Those that move a part of it, which depends on more than the base.
_MOVING_OTHERWISE = re.compile(r"pissa_niter_\d+|corda|lora_ga")

_VARIANTS = (
    *("kasa_config", "monteclora_config", "use_bdlora", "use_dora", "use_qalora"),
    "velora_config",
)


def lora_scaling(adapter: Adapter) -> Scaling:
    """Return how a LoRA is scaled, having checked its whole configuration.

    Raises:
        ComposeError: A key requests something that would not be applied, or is unknown.
    """
    check_keys(adapter, reads=_READ, ignores=_IGNORED, meanings=_MEANINGS)
    config = adapter.config
    init = initialisation(adapter)
    if init == "loftq":
        raise adapter.refuse(
            "init_lora_weights = 'loftq' put quantised weights into the base that it was trained "
            "on; publish that base (model.unload().save_pretrained), build the adapter for it, "
            f"and set init_lora_weights to true in its {ADAPTER_CONFIG}"
        )
    if isinstance(init, str) and _MOVING_OTHERWISE.fullmatch(init):
        raise adapter.refuse(
            f"init_lora_weights = {init!r} moved a part of the base's weights into it; save it "
            "with path_initial_model_for_weight_conversion to get a plain LoRA"
        )
    if init not in (*_KEEPING_INITS, *MOVING_INITS):
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} has init_lora_weights = {init!r}, which is no initialisation "
            "of PEFT's, so whether it moved a part of the base's weights is not known; write true "
            "if it did not"
        )
    variants = [key for key in _VARIANTS if config.get(key)]
    if init in MOVING_INITS and variants != ["use_dora"]:
        variants.append(f"init_lora_weights = {init!r}")
    if len(variants) > 1:
        raise adapter.refuse(f"it has {' and '.join(variants)}, which are not combined")
    if _is_dora(adapter) and config.get("lora_bias"):
        raise adapter.refuse("it has use_dora and lora_bias, which PEFT cannot merge together")
    return scaling_of(adapter, alpha="lora_alpha", rslora=bool(config.get("use_rslora", False)))


def _is_dora(adapter: Adapter) -> bool:
    return bool(adapter.config.get("use_dora", False))


def _is_kasa(adapter: Adapter) -> bool:
    return bool(adapter.config.get("kasa_config"))


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the changes to each site's weight, and to its bias where LoRA has one."""
    scaling = lora_scaling(adapter)
    changes: list[TensorChange] = []
    for site in sites:
        _check_roles(adapter, site)
    linear = [site for site in sites if "a" in site.roles]
    ways = transposed(adapter, linear, lambda site: _product_shape(adapter, site, scaling))
    for site in linear:
        rank, scale = scaling.at(site.pattern_path)
        scale *= site.times
        inputs = {"a": site.roles["a"], "b": site.roles["b"]}
        parameters = {"transposed": True} if ways[site.target] else {}
        changes.append(
            variant_change(adapter, site, rank, scale, parameters)
            or _change(adapter, site, inputs, parameters, scale)
        )
        if (bias := site.roles.get("b_bias")) is not None:
            changes.append(_bias_change(adapter, site, bias, scale))
    for site in sites:
        if "embedding_a" not in site.roles:
            continue
        refuse_variants(adapter, EMBEDDINGS)
        rank, scale = scaling.at(site.pattern_path)
        inputs = {"a": site.roles["embedding_a"], "b": site.roles["embedding_b"]}
        rows, width = (*adapter.target_shape(site.target), 0, 0)[:2]
        if adapter.shape(inputs["a"])[:1] != (rank,):
            raise adapter.other_rank(inputs["a"], rank)
        adapter.expect(inputs["a"], site.target, (rank, rows))
        adapter.expect(inputs["b"], site.target, (width, rank))
        changes.append(_change(adapter, site, inputs, {"transposed": True}, scale))
    return changes


def _check_roles(adapter: Adapter, site: Site) -> None:
    """Check that a site has both factors, and a magnitude or a bias only if configured."""
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
        raise adapter.unbound(roles["embedding_a"], f"{roles['a']!r} is for the same module")
    if ("diagonal" in roles) != _is_kasa(adapter):
        tensor = roles.get("diagonal") or min(roles.values())
        raise adapter.refuse(f"tensor {tensor!r} and its kasa_config do not agree")
    if "b" in roles and ("b_bias" in roles) != bool(adapter.config.get("lora_bias")):
        raise adapter.refuse(
            f"tensor {roles['b_bias']!r} is a bias, but its adapter_config.json has no lora_bias"
            if "b_bias" in roles
            else f"it has lora_bias, but no bias beside {roles['b']!r}"
        )
    if ("magnitude" in roles) != _is_dora(adapter):
        tensor = roles.get("magnitude") or roles.get("b") or roles["embedding_b"]
        raise adapter.refuse(
            f"tensor {tensor!r} is DoRA's magnitude, but its adapter_config.json has no use_dora"
            if "magnitude" in roles
            else f"it has use_dora, but no lora_magnitude_vector beside {tensor!r}"
        )


def _product_shape(adapter: Adapter, site: Site, scaling: Scaling) -> tuple[int, int, str]:
    """Return (out, in) of B @ A, and the name of B, having checked ranks and kernel shapes."""
    a, b = site.roles["a"], site.roles["b"]
    first, second = adapter.shape(a), adapter.shape(b)
    rank, _ = scaling.at(site.pattern_path)
    target = adapter.target_shape(site.target)
    if len(first) != len(second) or len(first) < 2 or len(target) != len(first):
        raise adapter.refuse(
            f"{site.target!r} has shape {list(target)} and {a!r} has {list(first)}, "
            "and only matrices and convolutions of equal rank are supported"
        )
    if diagonal := diagonal_factor(adapter, site, rank):
        blocks = blocks_of(adapter)
        first = (first[0], first[1] * (blocks if diagonal == "a" else 1))
        second = (second[0], second[1] * (blocks if diagonal == "b" else 1))
    if group := pooled_group(adapter, site):
        first = (first[0], first[1] * group)
    if first[0] != rank:
        raise adapter.other_rank(a, rank)
    if len(first) > 2 and second[1] != rank:
        raise _grouped(adapter, site)
    if second[1] != rank:
        raise adapter.other_rank(b, rank)
    if set(second[2:]) - {1}:
        raise adapter.misfit(b, site.target, [second[0], rank, *(1 for _ in second[2:])])
    if len(first) > 2 and first[1:] != target[1:]:
        if first[1] != target[1] and first[2:] == target[2:]:
            raise _grouped(adapter, site)
        raise adapter.misfit(a, site.target, [rank, *target[1:]])
    return second[0], math.prod(first[1:]), b


def _grouped(adapter: Adapter, site: Site) -> ComposeError:
    return adapter.refuse(
        f"{site.target!r} is a grouped convolution, and B @ A mixes its groups, so no weight of "
        "its shape has the same effect"
    )


def _change(
    adapter: Adapter, site: Site, inputs: dict[str, str], parameters: dict[str, Any], scale: float
) -> TensorChange:
    magnitude = site.roles.get("magnitude")
    if magnitude is None:
        return TensorChange(
            target=site.target, op="lora", inputs=inputs, weight=scale, parameters=parameters
        )
    expect_magnitude(adapter, site, magnitude, parameters)
    return TensorChange(
        target=site.target,
        op="dora",
        inputs={**inputs, "magnitude": magnitude},
        parameters={**parameters, "scaling": scale},
    )


def _bias_change(adapter: Adapter, site: Site, bias: str, scale: float) -> TensorChange:
    if site.bias is None:
        raise adapter.refuse(
            f"tensor {bias!r} is added to a bias, but {adapter.base_name} has none beside "
            f"{site.target!r}"
        )
    adapter.expect(bias, site.bias, adapter.target_shape(site.bias))
    return TensorChange(target=site.bias, op="lora", inputs={"bias": bias}, weight=scale)


def delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · B @ A, of its transpose, or of a change to a bias.

    ``bias`` is added without a product. With ``values``, the base itself is replaced as well:
    weight · (values − base + scaling · B @ A), or of a bias: weight · (values − base +
    scaling · bias).
    """
    alone = "values" not in inputs
    scale = term.weight if alone else term.parameters["scaling"]
    change: Array
    if "bias" in inputs:
        change = inputs["bias"][start:stop] * scale
    else:
        change = product(inputs, term, start, stop, scale)
    if alone:
        return change
    change += inputs["values"].reshape(change.shape)
    change -= source.peek(start, stop).reshape(change.shape)
    change *= term.weight
    return change


def product(
    inputs: Mapping[str, Any], term: Coefficients, start: int, stop: int, scale: float
) -> Any:
    """Return rows [start, stop) of scale · B @ A, laid out as the base's tensor is.

    Works on numpy arrays and torch tensors alike.
    """
    a, b = inputs["a"], inputs["b"]
    if "e" in inputs:
        a = a * inputs["e"]
    parameters = term.parameters
    if "experts" in parameters:
        return _expert_product(a, b, term, start, stop, scale)
    if parameters.get("transposed"):
        return (a[:, start:stop].T * scale) @ b.T
    return (b[start:stop].reshape(stop - start, -1) * scale) @ a.reshape(a.shape[0], -1)


def _expert_product(a: Any, b: Any, term: Coefficients, start: int, stop: int, scale: float) -> Any:
    """Return rows of one expert's weight, or of all experts' with one expert per row.

    A is (experts · rank, in), B is (out, rank · experts).
    """
    parameters = term.parameters
    experts = parameters["experts"]
    a = a.reshape(experts, -1, a.shape[1])
    b = b.reshape(b.shape[0], -1, experts)
    if "expert" in parameters:
        begin, expert = parameters["begin"], parameters["expert"]
        return (b[begin + start : begin + stop, :, expert] * scale) @ a[expert]
    if experts == 1 and not parameters.get("stacked"):
        return (b[start:stop, :, 0] * scale) @ a[0]
    change = (b.swapaxes(0, 2).swapaxes(1, 2)[start:stop] * scale) @ a[start:stop]
    if parameters.get("transposed"):
        change = change.swapaxes(1, 2)
    return change.reshape(stop - start, -1)


_NORM_ELEMENTS = 1 << 19
"""Elements of V at once, where norms run over all rows."""


def dora_prepare(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> Mapping[str, Tensor]:
    """Return the inputs, with ``factor`` = m / ‖V‖ by column where norms run over all rows."""
    if "init" in term.parameters:
        inputs = without_moved(inputs, term, source)
    if not term.parameters.get("transposed"):
        return inputs
    count, columns = as_matrix(source).shape
    squares = inputs["b"].new_zeros(columns)
    step = max(1, _NORM_ELEMENTS // columns)
    for start in range(0, count, step):
        stop = min(start + step, count)
        squares += _direction(inputs, term, start, stop, source).square_().sum(0)
    return {**inputs, "factor": inputs["magnitude"].flatten() / squares.sqrt_()}


def dora_delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (m / ‖V‖ · V − W)."""
    direction = _direction(inputs, term, start, stop, source)
    if "factor" in inputs:
        factor = inputs["factor"]
    else:
        magnitude = inputs["magnitude"].flatten()[start:stop]
        factor = (magnitude / direction.square().sum(1).sqrt_()).unsqueeze(1)
    return direction.mul_(factor).sub_(base_rows(source, start, stop)).mul_(term.weight)


def _direction(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of V = W + scale · B @ A."""
    change: Tensor = product(inputs, term, start, stop, term.parameters["scaling"])
    change.add_(base_rows(source, start, stop))
    return change


LORA = PeftMethod(
    peft_type="LORA",
    operator="lora",
    keys=_KEYS,
    bind=bind,
    formulas=(
        Formula(
            name="lora",
            delta=delta,
            exact=low_rank.exact,
            error=low_rank.error,
            arrays=True,
            factors=low_rank.factors,
            null=("a", "b", "e", "bias"),
            by_rows=("values",),
        ),
        *VARIANTS,
        Formula(name="dora", delta=dora_delta, prepare=dora_prepare, multiplies=True),
    ),
)
