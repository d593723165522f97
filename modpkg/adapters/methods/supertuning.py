"""Super-tuning: single values of a weight, alone or beside a LoRA (Supra).

    delta[index] = value        + alpha / r · B @ A

https://arxiv.org/abs/2607.09287.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula, UndefinedChange
from modpkg.adapters.method import PeftMethod, linear_shape, product_shape, require
from modpkg.adapters.peft_config import check_keys, number, positive
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_TRAINING = ("sparsity", "select_top", "lora_dropout", "init_weights", "save_precomputed_indices")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=("r", "lora_alpha"), ignores=_TRAINING)
    rank = positive(adapter, "r", 0) if adapter.config.get("r") is not None else 0
    scaling = number(adapter, "lora_alpha", 0) / rank if rank else 0.0
    changes = []
    for site in sites:
        require(adapter, site, "values")
        if "indices" not in site.roles:
            raise adapter.refuse(
                f"the places of {site.roles['values']!r} are not in its file, and PEFT chooses "
                "them again by the base's largest values; save it with "
                "save_precomputed_indices = true"
            )
        shape = linear_shape(adapter, site)
        count = math.prod(adapter.shape(site.roles["values"]))
        adapter.expect(site.roles["values"], site.target, (count,))
        adapter.expect(site.roles["indices"], site.roles["values"], (count,))
        if rank:
            out, inner, tensor = product_shape(adapter, site)
            if (out, inner) != shape:
                raise adapter.misfit(tensor, site.target, shape, [out, inner])
            adapter.expect(site.roles["a"], site.target, (rank, inner))
        elif len(site.roles) > 2:
            raise adapter.refuse(f"tensor {max(site.roles.values())!r} needs r, which it lacks")
        changes.append(
            TensorChange(
                target=site.target,
                op="supertuning",
                inputs=dict(site.roles),
                parameters={"scaling": scaling} if rank else {},
            )
        )
    return changes


def prepare(inputs: Mapping[str, Array], term: Coefficients, source: BaseRows) -> Mapping[str, Any]:
    """Return the places as integers.

    Raises:
        UndefinedChange: One is not in the weight.
    """
    indices = inputs["indices"].astype("int64")
    if indices.size and (indices.min() < 0 or indices.max() >= source.count):
        raise UndefinedChange("an index is out of range")
    return {**inputs, "indices": indices}


def delta(
    inputs: Mapping[str, Any], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · (the scattered values + alpha / r · B @ A)."""
    indices, columns = inputs["indices"], source.columns
    change: Array = np.zeros((stop - start) * columns)
    here = (indices >= start * columns) & (indices < stop * columns)
    np.add.at(change, indices[here] - start * columns, inputs["values"][here])
    change = change.reshape(stop - start, columns)
    if "a" in inputs:
        change += (inputs["b"][start:stop] * term.parameters["scaling"]) @ inputs["a"]
    return change * term.weight


SUPERTUNING = PeftMethod(
    peft_type="SUPERTUNING",
    operator="supertuning",
    keys={
        "supertuning_values": "values",
        "supertuning_indices": "indices",
        "supertuning_lora_A.weight": "a",
        "supertuning_lora_B.weight": "b",
    },
    bind=bind,
    formulas=(Formula(name="supertuning", delta=delta, prepare=prepare, arrays=True),),
)
