"""MiSS: one small block, repeated over a weight's inputs.

    delta[o, i] = D[i mod r, o mod m]        (Bone's "bat": W_block @ D + D, block by block)

Kang 2024, https://arxiv.org/abs/2409.15371.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, base_rows
from modpkg.adapters.method import PeftMethod, linear_shape, require
from modpkg.adapters.peft_config import check_keys, positive

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=("mini_r",), ignores=("r", "miss_dropout", "bias"))
    kind = adapter.config.get("init_weights", True)
    changes = []
    for site in sites:
        require(adapter, site, "block")
        shape, block = linear_shape(adapter, site), adapter.shape(site.roles["block"])
        parameters: dict[str, Any] = {}
        if kind == "bat":
            size = block[-1] if block else 0
            if not size or shape[1] % size or block != (shape[0] // size, size, size):
                raise adapter.misfit(site.roles["block"], site.target, shape)
            parameters["kind"] = "bat"
        else:
            width = positive(adapter, "mini_r", 1) if kind == "mini" else shape[0]
            if len(block) != 2 or block[1] != width or shape[0] % width or block[0] > shape[1]:
                raise adapter.misfit(site.roles["block"], site.target, shape)
        changes.append(
            TensorChange(
                target=site.target, op="miss", inputs=dict(site.roles), parameters=parameters
            )
        )
    return changes


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · the repeated block."""
    block, columns = inputs["block"], source.shape[1]
    if term.parameters.get("kind") == "bat":
        size = block.shape[2]
        weights = base_rows(source, start, stop).view(stop - start, -1, size)
        numbers = range(start, stop)
        blocks = block[[row // size for row in numbers]]
        inner = blocks[range(len(numbers)), [row % size for row in numbers]].unsqueeze(1)
        return (weights @ blocks + inner).flatten(1).mul_(term.weight)
    rank, width = block.shape
    repeated = block.t()[[row % width for row in range(start, stop)]]
    return repeated.repeat(1, -(-columns // rank))[:, :columns].mul(term.weight)


MISS = PeftMethod(
    peft_type="MISS",
    operator="miss",
    keys={"miss_block": "block"},
    bind=bind,
    formulas=(Formula(name="miss", delta=delta, null=("block",)),),
)
