"""Trainable tokens: some rows of an embedding are set, alone or beside any other method.

    delta[row] = value − W[row],  in the other rows values − W where the file has them whole

PEFT's ``trainable_token_indices``, and its method of that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, base_rows
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return nothing: rows are bound for all methods, see `modpkg.adapters.saved_modules`."""
    check_keys(adapter, reads=("token_indices",))
    return []


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (value − W); 0 in rows without a value."""
    block = base_rows(source, start, stop)
    change = inputs["values"] - block if "values" in inputs else block.new_zeros(block.shape)
    for place, row in enumerate(term.parameters["rows"]):
        if start <= row < stop:
            change[row - start] = inputs["rows"][place] - block[row - start]
    return change.mul_(term.weight)


TRAINABLE_TOKENS = PeftMethod(
    peft_type="TRAINABLE_TOKENS",
    operator="trainable-tokens",
    keys={},
    bind=bind,
    formulas=(Formula(name="rows", delta=delta, by_rows=("values",)),),
)
