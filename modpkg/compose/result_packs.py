"""The packs of a result: one, or several of a large result.

A file system lets one thread at a time write into a file, or allocate its space. In several files,
all cores do. The division depends on the tensors alone, never on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modpkg.core.dtypes import bits_of
from modpkg.core.filenames import composed_weights
from modpkg.core.packs import COMPOSED_PACKS, PackTensor, pack_header

PACK_BYTES = 128 << 20
"""A result has one pack for as many bytes, at least one and at most `COMPOSED_PACKS`."""


class ResultPack(NamedTuple):
    """One pack of a result."""

    filename: str
    header: bytes
    places: dict[str, PackTensor]

    @property
    def length(self) -> int:
        """The file's size in bytes."""
        return max(
            (place.offset + place.length for place in self.places.values()),
            default=len(self.header),
        )


def result_packs(
    types: Mapping[str, tuple[str, tuple[int, ...]]], count: int | None = None
) -> list[ResultPack]:
    """Return the packs of a result with these tensors (dtype, shape).

    Tensors go to the packs in turn, the largest first, as they are computed: those that several
    threads compute at the same time are in different packs.

    Args:
        count: The number of packs, where it is known already; the tensors decide if None.
    """
    lengths = {name: bits_of(dtype, shape) // 8 for name, (dtype, shape) in types.items()}
    if count is None:
        count = max(1, min(sum(lengths.values()) // PACK_BYTES, COMPOSED_PACKS, len(types)))
    order = sorted(types, key=lambda name: (-lengths[name], name))
    shares = [order[number::count] for number in range(count)]
    return [
        ResultPack(
            composed_weights(number, count), *pack_header({name: types[name] for name in share})
        )
        for number, share in enumerate(shares)
    ]
