"""The tensors of a release, grouped: alike tensors of many layers are one row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from modpkg.core.records import TensorEntry
from modpkg.core.tensors import byte_length

_DIGITS = 9
"""Of a number between dots: that of a layer, of an expert."""


class TensorRow(Struct, frozen=True):
    """One tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    """Its bytes."""
    stored: int
    """The bytes that it takes in its pack: fewer where it is encoded."""
    method: str
    """How it is encoded; empty if plain."""
    digest: str


class TensorGroup(Struct, frozen=True):
    """Tensors whose names differ in their numbers alone, of one dtype and shape."""

    name: str
    """With the numbers as ranges: ``model.layers.{0–29}.mlp.up_proj.weight``."""
    part: str
    """With ``*`` for each number."""
    dtype: str
    shape: tuple[int, ...]
    count: int
    size: int
    """The bytes of all of them."""


class TensorTable(Struct, frozen=True):
    """The tensors of one release."""

    groups: tuple[TensorGroup, ...]
    """In the order of their first tensors: those outside of layers first."""
    layers: dict[int | None, tuple[TensorRow, ...]]
    """By the first number in their names, None for no number; sorted by name."""
    rows: int
    size: int
    """The bytes of all tensors."""
    stored: int


def without_numbers(name: str) -> tuple[str, tuple[int, ...]]:
    """Return a tensor's name with ``*`` for each number between dots, and these numbers.

    >>> without_numbers("model.layers.3.experts.12.w1.weight")
    ('model.layers.*.experts.*.w1.weight', (3, 12))
    """
    pieces, numbers = name.split("."), []
    for at, piece in enumerate(pieces):
        if piece.isdecimal() and len(piece) <= _DIGITS:
            numbers.append(int(piece))
            pieces[at] = "*"
    return ".".join(pieces), tuple(numbers)


_Numbered = tuple[TensorRow, tuple[int, ...]]


def table_of(tensors: Mapping[str, TensorEntry]) -> TensorTable:
    """Return a release's tensors, grouped."""
    layers: dict[int | None, list[TensorRow]] = {}
    groups: dict[tuple[str, str, tuple[int, ...]], list[_Numbered]] = {}
    for name, entry in sorted(tensors.items()):
        row = TensorRow(
            name,
            entry.dtype,
            tuple(entry.shape),
            byte_length(entry),
            entry.length,
            "" if entry.encoding is None else entry.encoding.method,
            entry.digest,
        )
        part, numbers = without_numbers(name)
        layers.setdefault(numbers[0] if numbers else None, []).append(row)
        groups.setdefault((part, row.dtype, row.shape), []).append((row, numbers))
    made = [_group(part, rows) for (part, _, _), rows in groups.items()]
    made.sort(key=lambda group: ("*" in group.part, group.part, group.name))
    ordered = sorted(layers, key=lambda layer: -1 if layer is None else layer)
    rows = [row for found in layers.values() for row in found]
    return TensorTable(
        tuple(made),
        {layer: tuple(layers[layer]) for layer in ordered},
        len(rows),
        sum(row.size for row in rows),
        sum({row.digest: row.stored for row in rows}.values()),
    )


def _group(part: str, rows: Sequence[_Numbered]) -> TensorGroup:
    first = rows[0][0]
    name = first.name
    if len(rows) > 1:
        texts = iter([ranges(values) for values in zip(*(of for _, of in rows), strict=True)])
        name = ".".join(next(texts) if piece == "*" else piece for piece in part.split("."))
    size = sum(row.size for row, _ in rows)
    return TensorGroup(name, part, first.dtype, first.shape, len(rows), size)


def ranges(values: Iterable[int]) -> str:
    """Return numbers for people, at most four runs of them.

    >>> ranges([3]), ranges([0, 1, 2, 5]), ranges(range(0, 20, 2))
    ('3', '{0–2, 5}', '{0, 2, 4, 6 …}')
    """
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    texts = [str(start) if start == stop else f"{start}–{stop}" for start, stop in runs[:4]]
    if len(runs) == 1 and runs[0][0] == runs[0][1]:
        return texts[0]
    return "{" + ", ".join(texts) + (" …}" if len(runs) > 4 else "}")
