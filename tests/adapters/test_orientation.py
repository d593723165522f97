"""Whether a weight is stored as (out, in) or as (in, out)."""

from __future__ import annotations

from modpkg.adapters import bind_adapter
from modpkg.core.records import TensorType
from tests.adapters.samples import PLAIN, bind, pair, transposed
from tests.raising import raises


def test_transposed_weights_are_recognized_by_shape_and_by_architecture() -> None:
    base = {"c.weight": TensorType("F32", [6, 4]), "s.weight": TensorType("F32", [4, 4])}
    square = pair("s", columns=4)
    assert [transposed(b) for b in bind(pair("c") | square, base)] == [True, True]
    assert [transposed(b) for b in bind(square, base)] == [False]
    assert [transposed(b) for b in bind(square, base, fan_in_fan_out=True)] == [True]
    (change,) = bind_adapter("a", square, PLAIN, base, architecture="gpt2").changes
    assert not transposed(change)  # its output layer is stored as others are
    base = {"h.0.c_proj.weight": TensorType("F32", [4, 4])}
    square = pair("h.0.c_proj", columns=4)
    (change,) = bind_adapter("a", square, PLAIN, base, architecture="gpt2").changes
    assert transposed(change)


def test_a_square_weight_between_both_kinds_is_ambiguous() -> None:
    base = {
        "c.weight": TensorType("F32", [6, 4]),
        "l.weight": TensorType("F32", [4, 6]),
        "s.weight": TensorType("F32", [4, 4]),
    }
    with raises("M606", match=r"s\.weight"):
        bind(pair("c") | pair("l") | pair("s", columns=4), base)
