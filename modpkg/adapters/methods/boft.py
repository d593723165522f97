"""BOFT: rotates a weight's inputs in blocks and scales its outputs.

    delta = s · W Rᵀ − W        R = (I − Q)(I + Q)⁻¹,  Q = (M − Mᵀ) / 2

With several butterfly factors, R = Rₙ … R₁ R₀, and the inputs of each are in an order of their
own. A convolution's weight is flattened to a matrix. Liu et al. 2023,
https://arxiv.org/abs/2311.06243.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, base_rows
from modpkg.adapters.method import PeftMethod, require
from modpkg.adapters.methods.oft import cayley, rotated
from modpkg.adapters.peft_config import check_keys
from modpkg.core.bounds import BOFT_FACTORS

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(
        adapter,
        reads=("boft_n_butterfly_factor",),
        ignores=("boft_block_size", "boft_block_num", "boft_dropout", "bias"),
        neutral={"fan_in_fan_out": False},
    )
    changes = []
    for site in sites:
        require(adapter, site, "r", "s")
        _check_blocks(adapter, site)
        changes.append(TensorChange(target=site.target, op="boft", inputs=dict(site.roles)))
    return changes


def _check_blocks(adapter: Adapter, site: Site) -> None:
    """Check that each factor's blocks cover the inputs of a weight."""
    shape, tensor = adapter.target_shape(site.target), site.roles["r"]
    if len(shape) not in (2, 4) or len(set(shape[2:])) > 1:
        raise adapter.refuse(
            f"{site.target!r} has shape {list(shape)}, and BOFT is for matrices and for "
            "convolutions in two dimensions whose kernel is square"
        )
    blocks = adapter.shape(tensor)
    if len(blocks) != 4 or not blocks[0]:
        raise adapter.refuse(f"{tensor!r} has shape {list(blocks)}, which are no blocks of factors")
    factors, count, size, width = blocks
    if size != width or count * size != math.prod(shape[1:]):
        raise adapter.misfit(tensor, site.target, shape)
    if factors > 1 and (factors > BOFT_FACTORS or size % 2 or count % 2 ** (factors - 1)):
        raise adapter.refuse(
            f"{tensor!r} has {factors} butterfly factors of {count} blocks of size {size}, which "
            "are not in pairs throughout"
        )
    out = shape[0]
    adapter.expect(site.roles["s"], site.target, (out, 1) if len(shape) == 2 else (1, out))


def butterfly(factor: int, count: int, size: int) -> list[int]:
    """Return the order in which a factor takes the inputs: of each half block the even ones first.

    Args:
        factor: Which factor; the first one pairs the halves of single blocks.
        count: The number of blocks.
        size: The size of a block.
    """
    half, halves = size // 2, 2 ** (factor + 1)
    order = [*range(0, halves, 2), *range(1, halves, 2)]
    return [
        group * halves * half + place * half + within
        for group in range(count * size // (halves * half))
        for place in order
        for within in range(half)
    ]


def prepare(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> Mapping[str, Tensor]:
    """Return the blocks of each factor, (blocks, size, size), and s."""
    factors = {
        f"factor{number}": cayley((blocks - blocks.transpose(1, 2)) / 2)
        for number, blocks in enumerate(inputs["r"])
    }
    return {**factors, "s": inputs["s"].flatten()}


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (s · W Rᵀ − W)."""
    import torch

    block = base_rows(source, start, stop)
    count = len(inputs) - 1
    change = block
    for number in range(count):
        blocks = inputs[f"factor{number}"]
        if count == 1:
            change = rotated(change, blocks)
            continue
        order = torch.tensor(butterfly(number, len(blocks), blocks.shape[1]))
        change = rotated(change[:, order.argsort()], blocks)[:, order]
    change = change * inputs["s"][start:stop, None]
    return change.sub_(block).mul_(term.weight)


BOFT = PeftMethod(
    peft_type="BOFT",
    operator="boft",
    keys={"boft_R": "r", "boft_s": "s"},
    bind=bind,
    formulas=(Formula(name="boft", delta=delta, prepare=prepare, multiplies=True),),
)
