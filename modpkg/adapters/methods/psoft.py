"""PSOFT: rotates a weight within its largest singular directions.

    delta = U √S (R − I) √S Vᵀ   or, with psoft_init,  U S (R − I) Vᵀ

R = diag(b) (I + Q)(I − Q)⁻¹ diag(a), Q skew-symmetric, or by the first terms of the inverse's
Neumann series. U, S and V are of the base and not in the file: PEFT computes them in float32 when
it loads the adapter. The signs of singular vectors are those that torch's LAPACK gives, as in PEFT
on a CPU; the rest is computed in float64. https://openreview.net/forum?id=FSHrinMArK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, UndefinedChange
from modpkg.adapters.method import PeftMethod, linear_shape, require
from modpkg.adapters.methods.oft import neumann, neumann_terms
from modpkg.adapters.peft_config import check_keys, choice, number, positive
from modpkg.adapters.singular import SINGULAR_GAP

if TYPE_CHECKING:
    from torch import Tensor

_READ = (
    *("r", "psoft_alpha", "ab_svd_init", "psoft_svd", "psoft_orth", "psoft_mag_a", "psoft_mag_b"),
    *("use_cayley_neumann", "num_cayley_neumann_terms", "cayley_neumann_eps"),
)
_TRAINING = ("psoft_dropout", "psoft_svd_lowrank_niter", "random_seed", "init_weights", "bias")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=_TRAINING, neutral={"fan_in_fan_out": False})
    config = adapter.config
    rank = positive(adapter, "r", 32)
    if number(adapter, "psoft_alpha", 32) <= 0:
        raise adapter.refuse("its psoft_alpha is not positive")
    if config.get("psoft_svd", "full") != "full":
        raise adapter.refuse(
            "its psoft_svd is not 'full': the singular vectors come from a random projection, "
            "which depends on the version of torch"
        )
    init = choice(adapter, "ab_svd_init", "psoft_init", ("psoft_init", "pissa_init"))
    parameters: dict[str, Any] = {"rank": rank}
    if init == "pissa_init":
        parameters["both"] = True
    if orthogonal := bool(config.get("psoft_orth", True)):
        parameters["orthogonal"] = True
        if config.get("use_cayley_neumann"):
            parameters["terms"] = neumann_terms(adapter)
            if config.get("cayley_neumann_eps") is not None:
                parameters["eps"] = number(adapter, "cayley_neumann_eps", 0)
    shape = (rank * (rank - 1) // 2,) if orthogonal else (rank, rank)
    changes = []
    for site in sites:
        vectors = [f"vector_{side}" for side in "ab" if config.get(f"psoft_mag_{side}", True)]
        require(adapter, site, "r", *vectors)
        if len(site.roles) != 1 + len(vectors):
            raise adapter.refuse(
                f"the tensors of {site.path!r} and its psoft_mag_a and psoft_mag_b do not agree"
            )
        if rank > min(linear_shape(adapter, site)):
            raise adapter.misfit(site.roles["r"], site.target, [rank])
        if adapter.shape(site.roles["r"]) != shape:
            raise adapter.other_rank(site.roles["r"], rank)
        for vector in vectors:
            adapter.expect(site.roles[vector], site.roles["r"], (rank,))
        changes.append(
            TensorChange(
                target=site.target, op="psoft", inputs=dict(site.roles), parameters=parameters
            )
        )
    return changes


def prepare(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> Mapping[str, Tensor]:
    """Return the factors b (out, rank) and a (rank, in).

    Raises:
        UndefinedChange: Some of the singular values are equal, so the vectors are not defined.
    """
    import torch

    rank = term.parameters["rank"]
    if not bool(source.isfinite().all()):
        raise UndefinedChange("the base's tensor has NaN or infinity, and no singular values")
    rough, _, _ = torch.linalg.svd(source.float(), full_matrices=False)
    u, s, v = torch.linalg.svd(source.double(), full_matrices=False)
    agreement = (rough[:, :rank].double() * u[:, :rank]).sum(0)
    gaps = -s[: rank + 1].diff()
    if bool((agreement.abs() < 0.999).any() or (gaps <= SINGULAR_GAP * s[0]).any()):
        raise UndefinedChange(
            "some of the base's largest singular values are equal in float32, so the directions "
            "that it rotates are not defined"
        )
    u, v, s = u[:, :rank] * agreement.sign(), v[:rank] * agreement.sign()[:, None], s[:rank]
    change = _rotation(inputs, term) - torch.eye(rank, dtype=torch.float64)
    if term.parameters.get("both"):
        return {"b": u * s.sqrt() @ change, "a": s.sqrt()[:, None] * v}
    return {"b": u * s @ change, "a": v}


def _rotation(inputs: Mapping[str, Tensor], term: Coefficients) -> Tensor:
    """Return R."""
    import torch

    parameters, matrix = term.parameters, inputs["r"]
    rank = parameters["rank"]
    if parameters.get("orthogonal"):
        skew = matrix.new_zeros(rank, rank)
        rows, columns = torch.triu_indices(rank, rank, 1)
        skew[rows, columns] = matrix
        skew = skew - skew.T
        unit = torch.eye(rank, dtype=torch.float64)
        if "terms" in parameters:
            norm = float(skew.square().sum().sqrt())
            if "eps" in parameters and norm > parameters["eps"]:
                skew = skew * (parameters["eps"] / (norm + 1e-12))
            matrix = neumann(skew[None], parameters["terms"])[0]
        else:
            matrix = torch.linalg.solve(unit - skew, unit + skew, left=False)
    if "vector_b" in inputs:
        matrix = inputs["vector_b"][:, None] * matrix
    if "vector_a" in inputs:
        matrix = matrix * inputs["vector_a"]
    return matrix


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · b @ a."""
    return inputs["b"][start:stop].mul(term.weight) @ inputs["a"]


PSOFT = PeftMethod(
    peft_type="PSOFT",
    operator="psoft",
    keys={
        "psoft_R.weight": "r",
        "psoft_R.vector_a": "vector_a",
        "psoft_R.vector_b": "vector_b",
    },
    bind=bind,
    empty={"psoft_R.weight": 1},  # of rank 1
    formulas=(Formula(name="psoft", delta=delta, prepare=prepare, multiplies=True),),
)
