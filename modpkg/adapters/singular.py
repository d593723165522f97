"""Parts of a weight by its singular values: what methods keep of the base, or take out of it.

The part of the largest or smallest singular values is unique if they differ from the others, so the
signs that an implementation gives singular vectors do not matter for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modpkg.adapters.formula import BaseRows, UndefinedChange, all_rows
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

SINGULAR_GAP = 1e-6
"""Singular values that differ by less, as a fraction of the largest, are equal in float32."""


def whole(source: BaseRows) -> Array:
    """Return the base's tensor as a matrix."""
    return np.concatenate([np.array(rows) for _, rows in all_rows(source)])


def split(matrix: Array, count: int, *, what: str) -> tuple[Array, Array, Array]:
    """Return U, S and Vᵀ, having checked that the first ``count`` singular values are distinct
    from the others.

    Raises:
        UndefinedChange: They are not, or there are none; ``what`` names what they are for.
    """
    try:
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        raise UndefinedChange(
            f"the base's tensor has no singular values, so {what} is not defined"
        ) from None
    if 0 < count < len(s) and s[count - 1] - s[count] <= SINGULAR_GAP * s[0]:
        raise UndefinedChange(
            f"singular values number {count} and {count + 1} of the base's tensor are equal, so "
            f"{what} is not defined"
        )
    return u, s, v
