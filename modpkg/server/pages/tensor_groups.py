"""The tensors of a release, grouped: alike tensors of many layers are one row of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from modpkg.core.records import TensorEntry
from modpkg.core.tensors import byte_length

_NUMBER = re.compile(r"(?<![^.])\d{1,9}(?![^.])")
"""A part of a name between dots that is a number: of a layer, of an expert."""


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


def part_in(name: str) -> str:
    """Return a tensor's name with ``*`` for each number.

    >>> part_in("model.layers.3.experts.12.w1.weight")
    'model.layers.*.experts.*.w1.weight'
    """
    return _NUMBER.sub("*", name)


def layer_in(name: str) -> int | None:
    """Return the first number in a tensor's name; None if it has none."""
    number = _NUMBER.search(name)
    return int(number[0]) if number else None


def table_of(tensors: Mapping[str, TensorEntry]) -> TensorTable:
    """Return a release's tensors, grouped."""
    layers: dict[int | None, list[TensorRow]] = {}
    groups: dict[tuple[str, str, tuple[int, ...]], list[TensorRow]] = {}
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
        layers.setdefault(layer_in(name), []).append(row)
        groups.setdefault((part_in(name), row.dtype, row.shape), []).append(row)
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


def _group(part: str, rows: Sequence[TensorRow]) -> TensorGroup:
    first = rows[0]
    name = first.name
    if len(rows) > 1:
        numbers = zip(*(map(int, _NUMBER.findall(row.name)) for row in rows), strict=True)
        texts = iter([ranges(values) for values in numbers])
        name = _NUMBER.sub(lambda _: next(texts), name)
    size = sum(row.size for row in rows)
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
