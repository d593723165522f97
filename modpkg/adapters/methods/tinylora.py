"""TinyLoRA: a few trained numbers, projected into the largest singular directions of a weight.

    delta = B (Σ vᵢ · Pᵢ) A

A and B are singular vectors of the base, and P random matrices, all in the file. Layers may share
their v: PEFT numbers the layers in the order of the model's modules, and each P is drawn from a
seed plus that number, so P tells which v is a layer's. https://arxiv.org/abs/2602.04118.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula, UndefinedChange
from modpkg.adapters.method import PeftMethod, linear_shape, product_shape, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, number
from modpkg.adapters.torch_random import normal
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_READ = ("projection_seed", "weight_tying", "save_projection", "fan_in_fan_out")
_TRAINING = ("r", "u", "init_v_bound", "tinylora_dropout", "init_weights", "bias")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=_TRAINING)
    tying, seed = number(adapter, "weight_tying", 0), number(adapter, "projection_seed", 42)
    groups = max(1, round(len(sites) * (1.0 - tying)))
    size = max(1, len(sites) // groups)
    vectors = {f"v{min(index // size, groups - 1)}" for index in range(len(sites))}
    if shared.keys() != vectors or not isinstance(seed, int):
        raise adapter.refuse(
            f"it has {len(shared)} vectors, and its weight_tying gives its {len(sites)} layers "
            f"{len(vectors)}"
        )

    def shape(site: Site) -> tuple[int, int, str]:
        linear_shape(adapter, site)
        out, inner, tensor = product_shape(adapter, site)
        if "p" not in site.roles:
            raise adapter.refuse(
                f"the projection of {site.path!r} is not in its file, and the numbers that a seed "
                "gives depend on the version of torch; save it with save_projection = true"
            )
        require(adapter, site, "p")
        rank = adapter.shape(site.roles["a"])[0]
        for vector in shared.values():
            adapter.expect(site.roles["p"], vector, (*adapter.shape(vector), rank, rank))
        return out, inner, tensor

    # An embedding's B has a row for each of its rows, as its weight does.
    ways = transposed(adapter, sites, shape)
    parameters: dict[str, Any] = {"layers": len(sites), "groups": groups, "seed": seed}
    return [
        TensorChange(
            target=site.target,
            op="tinylora",
            inputs={**site.roles, **shared},
            parameters={**parameters, **({"transposed": True} if ways[site.target] else {})},
        )
        for site in sites
    ]


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b = B R and a = A.

    Raises:
        UndefinedChange: P is not the one that the seed gives for any layer.
    """
    vector = inputs["v0"] if term.parameters["groups"] == 1 else inputs[_vector(inputs, term)]
    matrix = (vector[:, None, None] * inputs["p"]).sum(0)
    return {"a": inputs["a"], "b": inputs["b"] @ matrix}


def _vector(inputs: Mapping[str, Array], term: Coefficients) -> str:
    """Return which of the vectors is the layer's."""
    projection, parameters = inputs["p"], term.parameters
    deviation = projection.shape[1] ** -0.5
    layers, groups = parameters["layers"], parameters["groups"]
    fits = []
    for index in range(layers):
        drawn = normal(parameters["seed"] + index, projection.size, deviation)
        # The base's dtype rounds P, to three digits at worst.
        if np.abs(drawn - projection.reshape(-1)).max() <= 0.02 * (1 + np.abs(drawn).max()):
            fits.append(min(index // max(1, layers // groups), groups - 1))
    if len(set(fits)) != 1:
        raise UndefinedChange(
            "which of its vectors the layer uses is not known: its projection is not the one that "
            "the seed gives for exactly one layer"
        )
    return f"v{fits[0]}"


TINYLORA = PeftMethod(
    peft_type="TINYLORA",
    operator="tinylora",
    keys={"tinylora_A": "a", "tinylora_B": "b", "tinylora_P": "p", "tinylora_v.*": "v"},
    bind=bind,
    formulas=(
        Formula(
            name="tinylora",
            delta=low_rank.delta,
            prepare=prepare,
            arrays=True,
            null=("a", "b", "p"),
        ),
    ),
)
