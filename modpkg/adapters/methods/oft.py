"""OFT: rotates a weight's inputs, block by block.

    delta = W Rᵀ − W        R = (I − Q)(I + Q)⁻¹,  Q skew-symmetric

or, PEFT's default, with the inverse by the first terms of its Neumann series:
R = I + 2Q + … + 2Qⁿ⁻² + Qⁿ⁻¹. Qiu et al. 2023, https://arxiv.org/abs/2306.07280.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, base_rows
from modpkg.adapters.method import PeftMethod, matrix_shape
from modpkg.adapters.peft_config import check_keys, number, positive
from modpkg.core.bounds import NEUMANN_TERMS

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(
        adapter,
        reads=("block_share", "coft", "eps", "use_cayley_neumann", "num_cayley_neumann_terms"),
        ignores=("r", "oft_block_size", "module_dropout", "bias"),
        neutral={"fan_in_fan_out": False},
    )
    parameters: dict[str, Any] = {}
    if adapter.config.get("use_cayley_neumann", True):
        parameters["terms"] = neumann_terms(adapter)
    if adapter.config.get("coft"):
        parameters["eps"] = number(adapter, "eps", 6e-5)
    changes = []
    for site in sites:
        if site.roles.keys() not in ({"r"}, {"embedding_r"}):
            raise adapter.unbound(
                min(site.roles.values()), "the adapter has two rotations for one module"
            )
        (role, tensor), *_ = site.roles.items()
        _check_blocks(adapter, site, tensor)
        inverse = {"inverse": True} if role == "embedding_r" else {}
        changes.append(
            TensorChange(
                target=site.target,
                op="oft",
                inputs={"r": tensor},
                parameters={**parameters, **inverse},
            )
        )
    return changes


def neumann_terms(adapter: Adapter) -> int:
    """Return the number of terms of the series that an adapter's configuration names.

    Raises:
        ComposeError: It is no number of terms, or more than can be meant.
    """
    terms = positive(adapter, "num_cayley_neumann_terms", 5)
    if terms > NEUMANN_TERMS:
        raise adapter.refuse(
            f"its num_cayley_neumann_terms is {terms}, and more than {NEUMANN_TERMS} are not summed"
        )
    return terms


def _check_blocks(adapter: Adapter, site: Site, tensor: str) -> None:
    """Check that a rotation's blocks cover the inputs of a weight, which has to be pointwise."""
    shape = adapter.target_shape(site.target)
    if len(shape) < 2 or math.prod(shape[2:]) != 1:
        raise adapter.refuse(
            f"{site.target!r} has shape {list(shape)}: PEFT rotates each overlapping patch of a "
            "convolution by itself, which no change of the weight does"
        )
    count, elements = matrix_shape(adapter, tensor)
    size = _block_size(elements)
    if size * (size - 1) // 2 != elements:
        raise adapter.refuse(
            f"{tensor!r} has {elements} elements per block, which fit no block size"
        )
    inner = shape[1]
    blocks = inner // size if count == 1 and adapter.config.get("block_share") else count
    if blocks * size != inner:
        raise adapter.misfit(tensor, site.target, shape)


def _block_size(elements: int) -> int:
    """Return the size of a block whose upper triangle has that many elements."""
    return (1 + math.isqrt(1 + 8 * elements)) // 2


def prepare(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> Mapping[str, Tensor]:
    """Return R's blocks, (blocks, size, size)."""
    elements = inputs["r"]
    size = _block_size(elements.shape[1])
    skew = elements.new_zeros(elements.shape[0], size, size)
    upper = skew.new_ones(size, size).triu(1).nonzero()
    skew[:, upper[:, 0], upper[:, 1]] = elements
    skew = skew - skew.transpose(1, 2)
    if "eps" in term.parameters:
        skew = _clipped(skew, term.parameters["eps"])
    terms = term.parameters.get("terms")
    rotation = cayley(skew) if terms is None else neumann(skew, terms)
    return {"rotation": rotation.transpose(1, 2) if term.parameters.get("inverse") else rotation}


def cayley(skew: Tensor) -> Tensor:
    """Return (I − Q)(I + Q)⁻¹ of each matrix."""
    unit = skew.new_ones(skew.shape[1]).diag()
    inverse: Tensor = (unit + skew).transpose(1, 2).inverse().transpose(1, 2)
    return (unit - skew) @ inverse


def neumann(skew: Tensor, terms: int) -> Tensor:
    """Return the first ``terms`` terms of I + 2Q + … + 2Qⁿ⁻² + Qⁿ⁻¹ of each matrix."""
    total = skew.new_ones(skew.shape[1]).diag().repeat(len(skew), 1, 1)
    if terms == 1:
        return total
    power = skew
    total += 2 * power
    if terms == 2:
        return total
    power = power @ skew
    total += 2 * power
    for _ in range(3, terms - 1):
        power = power @ skew
        total += 2 * power
    return total.add_(power @ skew)


def _clipped(skew: Tensor, eps: float) -> Tensor:
    """Return each block with its norm clipped to eps / √blocks (COFT)."""
    bound = eps / math.sqrt(len(skew))
    norms = skew.square().sum((1, 2), keepdim=True).sqrt_()
    return skew.where(norms <= bound, bound * skew / norms)


def rotated(block: Tensor, rotation: Tensor) -> Tensor:
    """Return rows times Rᵀ; a single block of R is used for all inputs."""
    size = rotation.shape[1]
    parts = block.view(len(block), -1, size)
    if len(rotation) == 1:
        return (parts @ rotation[0].t()).flatten(1)
    return (rotation @ parts.permute(1, 2, 0)).permute(2, 0, 1).flatten(1)


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (W Rᵀ − W)."""
    block = base_rows(source, start, stop)
    return rotated(block, inputs["rotation"]).sub_(block).mul_(term.weight)


OFT = PeftMethod(
    peft_type="OFT",
    operator="oft",
    keys={"oft_R.weight": "r", "oft_embedding_R.weight": "embedding_r"},
    bind=bind,
    formulas=(Formula(name="oft", delta=delta, prepare=prepare, null=("r",), multiplies=True),),
)
