"""A base's tensor seen as a matrix: first extent × all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def matrix(source: Tensor) -> Tensor:
    """Return the tensor as a matrix; a vector is one column."""
    return source.reshape(source.shape[0] if source.ndim else 1, -1)


def rows(source: Tensor, start: int, stop: int) -> Tensor:
    """Return rows of the base as float64."""
    return matrix(source)[start:stop].double()
