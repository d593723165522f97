"""BOFT: rotates a weight's inputs in blocks and scales its outputs.

    delta = s · W Rᵀ − W        R = (I − Q)(I + Q)⁻¹,  Q = (M − Mᵀ) / 2

With one butterfly factor only. Liu et al. 2023, https://arxiv.org/abs/2311.06243.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, base_rows
from modpkg.adapters.method import PeftMethod, require
from modpkg.adapters.methods.oft import cayley, rotated
from modpkg.adapters.peft_config import check_keys

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
        shape = adapter.target_shape(site.target)
        blocks = adapter.shape(site.roles["r"])
        if len(blocks) != 4 or blocks[0] != 1:
            raise adapter.refuse(
                f"{site.roles['r']!r} has {blocks[0] if blocks else 0} butterfly factors, and only "
                "one is supported: PEFT computes several with a CUDA kernel only"
            )
        if len(shape) != 2:
            raise adapter.refuse(
                f"{site.target!r} is a convolution, whose weights BOFT orders differently"
            )
        if blocks[2] != blocks[3] or blocks[1] * blocks[2] != shape[1]:
            raise adapter.misfit(site.roles["r"], site.target, shape)
        adapter.expect(site.roles["s"], site.target, (shape[0], 1))
        changes.append(TensorChange(target=site.target, op="boft", inputs=dict(site.roles)))
    return changes


def prepare(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> Mapping[str, Tensor]:
    """Return R's blocks, (blocks, size, size), and s."""
    blocks = inputs["r"][0]
    return {"rotation": cayley((blocks - blocks.transpose(1, 2)) / 2), "s": inputs["s"]}


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (s · W Rᵀ − W)."""
    block = base_rows(source, start, stop)
    change = rotated(block, inputs["rotation"]).mul_(inputs["s"][start:stop])
    return change.sub_(block).mul_(term.weight)


BOFT = PeftMethod(
    peft_type="BOFT",
    operator="boft",
    keys={"boft_R": "r", "boft_s": "s"},
    bind=bind,
    formulas=(Formula(name="boft", delta=delta, prepare=prepare, multiplies=True),),
)
