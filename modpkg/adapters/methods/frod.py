"""FRoD: a weight in a basis that layers of one kind share, with trained scales and a sparse part.

    delta = U (S + diag(λ)) Vᵀ − W        U = W V⁻ᵀ, each column divided by its norm

V and the places of S are in the file, by kind of layer. https://doi.org/10.1609/aaai.v40i31.39813.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    BaseRows,
    Coefficients,
    Formula,
    UndefinedChange,
    all_rows,
)
from modpkg.adapters.method import PeftMethod, linear_shape, matrix_shape, require, vector_length
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_TRAINING = (
    *("projection_prng_key", "frod_dropout", "bias", "init_weights", "sparse_rate"),
    *("regularization_alpha", "progressbar", "runtime_offload_base_weight"),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=("save_projection", "fan_in_fan_out"), ignores=_TRAINING)

    def shape(site: Site) -> tuple[int | None, int | None, str]:
        linear_shape(adapter, site)
        require(adapter, site, "diagonal", "values")
        kind = _kind(site.path)
        for role in ("v", "indices"):
            if role + kind not in shared:
                raise adapter.refuse(
                    f"its projection for {kind!r} is not in its file, and PEFT computes another "
                    "from the base; save it with save_projection = true"
                )
        inner, _ = matrix_shape(adapter, shared["v" + kind])
        adapter.expect(shared["v" + kind], site.target, (inner, inner))
        adapter.expect(site.roles["diagonal"], shared["v" + kind], (inner,))
        count = vector_length(adapter, site.roles["values"])
        adapter.expect(shared["indices" + kind], site.roles["values"], (2, count))
        return None, inner, site.roles["diagonal"]

    ways = transposed(adapter, sites, shape)
    changes = []
    for site in sites:
        kind = _kind(site.path)
        others = {role: shared[role + kind] for role in ("v", "indices")}
        if f"size{kind}" in shared:
            others["indices_a"] = shared[f"size{kind}"]
        changes.append(
            TensorChange(
                target=site.target,
                op="frod",
                inputs={**site.roles, **others},
                parameters={"transposed": True} if ways[site.target] else {},
            )
        )
    return changes


def _kind(path: str) -> str:
    """Return the kind of a layer by its path, as PEFT's `_category_from_key` does."""
    parts = path.split(".")
    if len(parts) == 1 or parts[-2].isdigit():
        return parts[-1]
    kind = "_".join(parts[-2:])
    if kind == "output_dense" and parts[-3:-2] == ["attention"]:
        return "attention_output"
    return kind


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the matrix that a row of W is multiplied with.

    Raises:
        UndefinedChange: V has no inverse, or an index is out of range.
    """
    basis = inputs["v"]
    width = len(basis)
    indices = inputs["indices"].astype(np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= width):
        raise UndefinedChange("an index is out of range")
    scales = np.diag(inputs["diagonal"])
    np.add.at(scales, (indices[0], indices[1]), inputs["values"])
    try:
        inverse = np.linalg.inv(basis).T
    except np.linalg.LinAlgError:
        raise UndefinedChange("its projection has no inverse") from None
    squares = np.zeros(width)
    if term.parameters.get("transposed"):
        columns = np.concatenate([np.array(rows) for _, rows in all_rows(source)]).T
        squares += np.square(columns @ inverse).sum(0)
    else:
        for _, rows in all_rows(source):
            squares += np.square(rows @ inverse).sum(0)
    norms = np.sqrt(squares)
    factors = np.divide(1.0, norms, out=np.zeros(width), where=norms > 1e-12)
    return {"matrix": (inverse * factors) @ scales @ basis.T}


def delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · (W M − W), or of its transpose."""
    if term.parameters.get("transposed"):
        rows = sum(inputs["matrix"][place, start:stop].T @ each for place, each in all_rows(source))
    else:
        rows = source.peek(start, stop) @ inputs["matrix"]
    change: Array = (rows - source.peek(start, stop)) * term.weight
    return change


FROD = PeftMethod(
    peft_type="FROD",
    operator="frod",
    keys={
        "frod_V.*": "v",
        "frod_s_indices.*": "indices",
        "frod_s_size.*": "size",
        "frod_lambda_l": "diagonal",
        "frod_lambda_s_values": "values",
    },
    bind=bind,
    empty={"frod_s_indices": 2, "frod_lambda_s_values": 1},
    formulas=(Formula(name="frod", delta=delta, prepare=prepare, arrays=True, multiplies=True),),
)
