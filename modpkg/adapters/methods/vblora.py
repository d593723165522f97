"""VB-LoRA: a LoRA whose factors are mixed from a bank of vectors that all layers share.

    delta = B @ A        each part of A and B = Σ softmax(top-k logits) · vectors

The file has the logits, or (``save_only_topk_weights``) the k indices and the first k - 1 weights.
Li, Han & Ji 2024, https://arxiv.org/abs/2405.15179.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula, UndefinedChange
from modpkg.adapters.method import PeftMethod, matrix_shape, require
from modpkg.adapters.peft_config import check_keys, positive
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_READ = ("topk", "save_only_topk_weights", "fan_in_fan_out")
_TRAINING = (
    *("r", "num_vectors", "vector_length", "vblora_dropout", "init_vector_bank_bound"),
    *("init_logits_std", "bias"),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=_TRAINING)
    if "bank" not in shared:
        raise adapter.refuse("it has no vblora_vector_bank")
    vectors, length = matrix_shape(adapter, shared["bank"])
    top = positive(adapter, "topk", 2)
    if top > vectors:
        raise adapter.refuse(f"its topk is {top}, and it has only {vectors} vectors")
    shapes = {}
    for site in sites:
        out, rank = _extents(adapter, site, "b", top, vectors)
        other, inner = _extents(adapter, site, "a", top, vectors)
        tensor = min(site.roles.values())
        if rank != other:
            raise adapter.misfit(tensor, site.target, [out * length, rank], [other, inner])
        shapes[site.path] = (out * length, inner * length, tensor)
    ways = low_rank.ways_of(adapter, sites, shapes)
    return [
        TensorChange(
            target=site.target,
            op="vblora",
            inputs={**site.roles, **shared},
            parameters={"top": top, **ways[site.target]},
        )
        for site in sites
    ]


def _extents(adapter: Adapter, site: Site, factor: str, top: int, vectors: int) -> tuple[int, int]:
    """Return the first two extents of a factor's logits, or of its indices and weights."""
    kept = bool(adapter.config.get("save_only_topk_weights"))
    roles = (f"indices_{factor}", f"weights_{factor}") if kept else (f"logits_{factor}",)
    require(adapter, site, *roles)
    if len(site.roles) != 2 * len(roles):
        raise adapter.refuse(
            f"{min(site.roles.values())!r} and save_only_topk_weights do not agree"
        )
    shape = adapter.shape(site.roles[roles[0]])
    last = top if kept else vectors
    first, second = (*shape, 0, 0)[:2]
    adapter.expect(site.roles[roles[0]], site.target, (first, second, last))
    if kept:
        adapter.expect(site.roles[f"weights_{factor}"], site.target, (first, second, top - 1))
    return first, second


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b (out, rank) and a (rank, in).

    Raises:
        UndefinedChange: Two logits tie for the last place among the top k, or the weights are none.
    """
    a, b = (_mixed(inputs, factor, term.parameters["top"]) for factor in "ab")
    return {
        "a": a.reshape(a.shape[0], -1),
        "b": b.transpose(0, 2, 1).reshape(-1, b.shape[1]),
    }


def _mixed(inputs: Mapping[str, Array], factor: str, top: int) -> Array:
    """Return the mixed vectors of a factor, (…, …, vector)."""
    bank = inputs["bank"]
    if f"weights_{factor}" in inputs:
        weights = inputs[f"weights_{factor}"]
        weights = np.concatenate([weights, 1 - weights.sum(-1, keepdims=True)], axis=-1)
        # PEFT takes the logarithm of what is left for the last one, which rounding makes negative.
        if weights.min(initial=0) < -1e-6:
            raise UndefinedChange("its top-k weights sum to more than 1")
        weights = weights.clip(0)
        indices = inputs[f"indices_{factor}"].astype(np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(bank)):
            raise UndefinedChange("an index is not one of its vectors")
    else:
        logits = inputs[f"logits_{factor}"]
        order = np.argsort(-logits, axis=-1, kind="stable")
        indices, others = order[..., :top], order[..., top : top + 1]
        logits_of = np.take_along_axis(logits, indices, -1)
        if others.shape[-1]:
            tied = logits_of[..., -1:] == np.take_along_axis(logits, others, -1)
            if (tied & np.isfinite(logits_of[..., -1:])).any():
                raise UndefinedChange(
                    "two logits tie for the last place among its top k, and which one torch takes "
                    "is not defined"
                )
        weights = np.exp(logits_of - logits_of.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    mixed: Array = (weights[..., None] * bank[indices]).sum(-2)
    return mixed


VBLORA = PeftMethod(
    peft_type="VBLORA",
    operator="vblora",
    keys={
        "vblora_vector_bank": "bank",
        **{f"vblora_logits_{side}": f"logits_{side.lower()}" for side in "AB"},
        **{f"vblora_logits_{side}_topk_indices": f"indices_{side.lower()}" for side in "AB"},
        **{f"vblora_logits_{side}_topk_weights": f"weights_{side.lower()}" for side in "AB"},
    },
    bind=bind,
    empty={f"vblora_logits_{side}_topk_weights": 3 for side in "AB"},  # for a topk of 1
    formulas=(
        Formula(name="vblora", delta=low_rank.delta, prepare=prepare, arrays=True, null=("bank",)),
    ),
)
