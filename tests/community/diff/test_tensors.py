"""How far two sets of weights are apart, against the same in plain torch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from modpkg.community.diff.tensors import WeightsDiff, by_part, diff_tensors
from modpkg.compose.distance import BLOCK_ELEMENTS
from tests.compose.helpers import of_folder


def compared(
    folder: Path, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> WeightsDiff:
    for name, tensors in (("a", before), ("b", after)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name / "w.safetensors")
    one, two = (of_folder(folder / name, name, "base").tensors for name in "ab")
    return diff_tensors(one, two)


def test_every_kind_of_change_is_distinguished(tmp_path: Path) -> None:
    same = torch.ones(3)
    found = compared(
        tmp_path,
        {"same": same, "gone": same + 1, "wider": same + 2, "x.3.w": torch.tensor([1.0, 2.0, 2.0])},
        {
            "same": same,
            "new": same + 3,
            "wider": torch.ones(4),
            "x.3.w": torch.tensor([1.0, 2.0, 5.0]),
        },
    )
    statuses = {tensor.name: tensor.status for tensor in found.tensors}
    assert statuses == {
        "same": "same",
        "gone": "removed",
        "new": "added",
        "wider": "reshaped",
        "x.3.w": "changed",
    }
    (changed,) = (tensor for tensor in found.tensors if tensor.status == "changed")
    assert (changed.layer, changed.part) == (3, "x.*.w")
    assert (changed.changed, changed.norm, changed.distance, changed.largest) == (1, 3, 3, 3)
    assert (found.relative, found.elements, found.changed) == (1, 6, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_are_those_of_the_whole_tensor_in_float64(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    old = torch.randn(BLOCK_ELEMENTS + 77, generator=generator).to(dtype)
    new = old.clone()
    new[::3] += torch.randn(len(new[::3]), generator=generator).to(dtype) / 8
    (found,) = compared(tmp_path, {"w": old}, {"w": new}).tensors
    gap = new.double() - old.double()
    assert found.changed == int((new != old).sum())
    assert math.isclose(found.norm, float(old.double().norm()), rel_tol=1e-12)
    assert math.isclose(found.distance, float(gap.norm()), rel_tol=1e-12)
    assert found.largest == float(gap.abs().max())


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), 1),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]).bfloat16(), 1),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1),
        (torch.tensor([1, 2, 3]), torch.tensor([1, -2, 4]), 2),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 2j]), 1),
    ],
    ids=["a sign of zero", "dtypes by value", "booleans", "integers", "complex"],
)
def test_values_that_differ(
    old: torch.Tensor, new: torch.Tensor, changed: int, tmp_path: Path
) -> None:
    (found,) = compared(tmp_path, {"w": old}, {"w": new}).tensors
    assert (found.status, found.changed) == ("changed", changed)


def test_relative_distance_from_zero_is_infinite(tmp_path: Path) -> None:
    found = compared(tmp_path, {"w": torch.zeros(2)}, {"w": torch.ones(2)})
    assert found.tensors[0].relative == math.inf
    assert found.relative == math.inf


def test_parts_are_aggregated_over_layers(tmp_path: Path) -> None:
    before = {f"h.{n}.w": torch.ones(4) for n in range(3)} | {"e": torch.ones(2)}
    after = before | {"h.0.w": torch.ones(4) * 2, "h.1.w": torch.ones(4) * 3}
    rows = by_part(compared(tmp_path, before, after))
    assert [(row.part, row.tensors, row.touched, row.changed) for row in rows] == [
        ("h.*.w", 3, 2, 8),
        ("e", 1, 0, 0),
    ]
    assert rows[0].distance == math.sqrt(4 * 1 + 4 * 4)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.floats(-4, 4, width=32)
)
def test_there_and_back_is_equally_far(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], shift: float
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    old = torch.tensor(values)
    new = old + shift
    forth = compared(folder / "1", {"w": old}, {"w": new}).tensors[0]
    back = compared(folder / "2", {"w": new}, {"w": old}).tensors[0]
    assert (forth.changed, forth.distance, forth.largest) == (
        back.changed,
        back.distance,
        back.largest,
    )
