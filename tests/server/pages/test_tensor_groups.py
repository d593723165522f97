"""Tensors, grouped."""

from __future__ import annotations

from modpkg.core.records import Encoding, TensorEntry
from modpkg.server.pages.differences import compare, drawn
from modpkg.server.pages.picture import picture_of
from modpkg.server.pages.tensor_groups import ranges, table_of, without_numbers

PACK = "sha256:" + "0" * 64


def entry(digest: int, *shape: int, dtype: str = "F32", stored: int | None = None) -> TensorEntry:
    length = 4
    for extent in shape:
        length *= extent
    encoding = None if stored is None else Encoding("planes")
    return TensorEntry(
        dtype, [*shape], f"sha256:{digest:064x}", PACK, 0, stored or length, encoding
    )


def model(layers: int, experts: int = 1, changed: int = 0) -> dict[str, TensorEntry]:
    tensors = {"embed.weight": entry(1, 8, 4)}
    for layer in range(layers):
        for expert in range(experts):
            name = f"layers.{layer}.experts.{expert}.w1.weight"
            tensors[name] = entry(10 + layer * 1000 + expert + (layer < changed) * 10**9, 4, 4)
    return tensors


def test_alike_tensors_are_one_row() -> None:
    table = table_of(model(30, 8))
    assert [group.name for group in table.groups] == [
        "embed.weight",
        "layers.{0–29}.experts.{0–7}.w1.weight",
    ]
    assert table.groups[1].count == 240
    assert table.groups[1].size == 240 * 64
    assert [len(rows) for rows in table.layers.values()] == [1] + [8] * 30
    assert table.rows == 241


def test_tensors_of_other_shapes_are_other_rows() -> None:
    tensors = {f"h.{n}.w": entry(n, 4 if n else 8) for n in (0, 1, 2, 4)}
    groups = table_of(tensors).groups
    assert {(group.name, group.shape) for group in groups} == {
        ("h.0.w", (8,)),
        ("h.{1–2, 4}.w", (4,)),
    }


def test_numbers_are_those_between_dots() -> None:
    assert without_numbers("layer1.0.conv2.weight") == ("layer1.*.conv2.weight", (0,))
    assert without_numbers("conv1.weight") == ("conv1.weight", ())
    assert without_numbers("h.99999999999999999999.w") == ("h.99999999999999999999.w", ())
    assert without_numbers("h.*.1.\u0662.w") == ("h.*.*.*.w", (1, 2))
    assert ranges(range(5)) == "{0–4}"


def test_a_comparison_counts_what_differs() -> None:
    after = model(30, changed=3) | {"new.weight": entry(5, 2)}
    comparison = compare(model(30) | {"old.weight": entry(6, 2)}, after)
    assert comparison.counts == {"same": 28, "changed": 3, "added": 1, "removed": 1}
    part = next(part for part in comparison.parts if part.part == "layers.*.experts.*.w1.weight")
    assert part.counts == {"same": 27, "changed": 3}


def test_a_picture_shades_by_what_is_new() -> None:
    before = {f"h.{n}.w": entry(n, 100) for n in range(3)}
    after = {
        "h.0.w": before["h.0.w"],
        "h.1.w": entry(11, 100, stored=20),
        "h.2.w": entry(12, 100),
    }
    picture = drawn(compare(before, after)).picture
    assert picture is not None
    assert [squares.shade for squares in picture.squares] == ["same", "few", "all"]
    assert [label.text for label in picture.columns] == ["0", "1", "2"]


def test_a_picture_of_many_tensors_stays_small() -> None:
    cells = compare(model(300, 16), model(300, 16, changed=150)).cells
    picture = picture_of(cells)
    assert picture is not None
    assert picture.together == 5
    assert sum(len(squares.path) for squares in picture.squares) < 5_000
    names = {f"part{n}.{layer}.w": entry(n, 2) for n in range(100) for layer in range(64)}
    wide = picture_of(compare({}, names).cells)
    assert wide is not None
    assert wide.parts_left == 68
    assert sum(len(squares.path) for squares in wide.squares) < 45_000
